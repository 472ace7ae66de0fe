"""The parts of ``bench/roofline.py``: what a layer must do, counted, and how long that may take.

hardware  the constants of a GPU, each with where it is from
work      operations and bytes of a pass of a layer
tiling    what the tile of the table makes of it: waste, programs, traffic into shared memory
model     work + tiling + hardware -> predicted times of layers and networks
report    tables and JSON;  against: beside a result of bench/run.py
"""
