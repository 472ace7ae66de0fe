"""Hand-written Triton kernels of VGG: 3x3 convolution with its epilogue, 2x2 max-pool, gradients.

conv3x3.py, pool2x2.py   the kernels: mathematics, layouts, nothing about launching
ops.py                   what a caller uses: lays out memory, chooses tiles, launches
tiles.json, tiles.py     the tiles there are and the rule that chooses one
tuned.json, tuned.py     what was measured to be faster than the rule's choice; table_file.py: files
compile_check.py         compiles the whole table without a GPU and looks at the machine code

This package imports torch and triton and nothing of vggfast; importing ``vggfast.kernels`` itself
imports neither. To run on CPU tensors, TRITON_INTERPRET=1 must be set before ``ops`` is imported.
"""
