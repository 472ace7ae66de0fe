"""``python -m vggfast.tune``: measure which tile is the fastest for the layers of VGG on this GPU.

cli        options, exit codes
problems   which calls are tuned, their data, how to run one
search     candidates: pruned by counting, checked, timed in turns
probe      first calls, in another process, of a kernel that could hang
clock      one timed call on a GPU, or under Triton's interpreter
store      what was found into the user's table, beside what others put there
progress   a bar on a terminal, lines elsewhere

Nothing else times anything: a first call of the network runs what the tables or the rule say
(kernels/tuned.py).
"""
