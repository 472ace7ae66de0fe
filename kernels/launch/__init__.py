"""Host side of the kernels: one file a pass, which lays out memory, chooses a tile, launches."""
