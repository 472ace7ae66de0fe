"""Hand-written Triton kernels of VGG: 3x3 convolution with its epilogue, 2x2 max-pool, gradients.

conv3x3.py, split3x3.py, dgrad3x3.py, wgrad3x3.py, first3x3.py, pool2x2.py, linear.py, pack3x3.py,
e4m3.py
                         the kernels: mathematics, layouts, nothing about launching
launch/                  their host side, one file a pass: lays out memory, chooses tiles, launches
gluon3x3.py              the convolution once more in Gluon, for Hopper
flat3x3.py               and once more on maps in the padded-flat form
first_plan.py, gluon_plan.py, flat_plan.py
                         how their tiles are cut, without torch
ops.py                   what a caller uses
kept.py                  packed weights, kept while they stay the same, for kernels of any make
external.py              the convolution in CUDA C++, which vggfast hands over
precision.py             how float32 products are made
tiles.json, tiles.py     the tiles there are and the rule that chooses one; splits.py: of sums
tuned.json, tuned.py     what was measured to be faster than the rule's choice; table_file.py: files
compile_cases.py, compile_check.py
                         compiles the whole table without a GPU and looks at the machine code

This package imports torch and triton and nothing of vggfast; importing ``vggfast.kernels`` itself
imports neither. To run on CPU tensors, TRITON_INTERPRET=1 must be set before ``ops`` is imported.
"""
