"""The parts of ``bench/run.py``, in the order they come into play.

cli       arguments -> session, exit codes
flags     the arguments, as --help shows them;  options: checked
session   the stages: machine, numerics, ceilings, layers, networks, report
machine   what the figures were taken on
cases     one layer: ours, the same in plain torch, the oracle, and its data
nets      whole networks in plain torch, and on cuDNN's fused convolution
margin    images on which no rounding decides a ReLU or a pool of the network
numerics  every layer against float64;  endtoend: the network;  oracle: the timed call itself
peers/    other engines for the network, checked and made ready for the contest
clock     one timed call on a CPU or a GPU
contest   alternated timing of several contenders, within a time budget
stats     medians and spread
child     a contender in a process of its own;  rss, isa: what it says of itself
memory, compare   what needs such processes;  extras: when
ceilings, layers, networks   what is timed
photographs, pipelines   bench/data.py: JPEGs, and the baselines
progress, tables, results, plot   bar or lines, console, JSON, PNG
"""
