"""crop_images: bad input (results: tests/cuda/test_cuda_crop.py, on two backends)."""

from __future__ import annotations

import pytest
import torch

from vggfast import InputError, ops

IMAGES = torch.zeros(2, 8, 9, 3, dtype=torch.uint8)
BYTES = IMAGES.flatten()
GOOD = {"images": IMAGES, "corners": [(0, 0), (1, 1)], "size": (4, 4), "mean": (1, 2, 3),
        "std": (1, 2, 3)}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": IMAGES.float()}, "^images: got torch.float32"),
        ({"images": [1]}, "^images: got list"),
        ({"images": IMAGES[0]}, r"^images: got shape \(8, 9, 3\)"),
        ({"corners": [(0, 0)]}, "^corners: got 1 rows, allowed are 2"),
        ({"corners": [(0, 0, 0)] * 2}, r"^corners: got shape \(2, 3\)"),
        ({"corners": [(0.5, 0)] * 2}, "^corners: got dtype float64"),
        ({"corners": [(0, 2**40)] * 2}, "^corners: got 0 to 1099511627776"),
        ({"corners": [(0, -(2**63))] * 2}, "^corners: got -9223372036854775808"),
        ({"corners": 3}, "^corners: got int"),
        ({"size": (0, 4)}, r"^size: got \(0, 4\)"),
        ({"mean": (1, 2)}, "^mean:"),
        ({"std": (1, 0, 1)}, "^std:"),
        ({"flips": [True]}, r"^flips: got shape \(1,\)"),
        ({"shifts": [1.0, 2.0]}, r"^shifts: got shape \(2,\)"),
        ({"dtype": torch.float64}, "^dtype: got torch.float64"),
        ({"images": BYTES, "offsets": [0, 300], "sizes": [(8, 9)] * 2}, "^offsets: .*432 bytes"),
        ({"images": BYTES, "offsets": [-1, 0], "sizes": [(8, 9)] * 2}, "^offsets:"),
        ({"images": BYTES, "offsets": [0, 2**63 - 9], "sizes": [(8, 9)] * 2}, "^offsets:"),
        ({"images": BYTES, "offsets": [0, 0], "sizes": [(8, 0)] * 2}, "^sizes:"),
        ({"images": BYTES}, "^images:.*offsets and sizes"),
    ],
)
def test_names_the_argument(change, words):
    with pytest.raises(InputError, match=words):
        ops.crop_images(**{**GOOD, **change})


def test_good_input_passes():
    assert ops.crop_images(**GOOD).shape == (2, 3, 4, 4)
