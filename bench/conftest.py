"""What the pytest-benchmark cases share: the device, and a call that ends when its work is done.

Run them with ``pytest bench`` (``make microbench``); ``-k vggfast`` or ``-k torch`` picks a side.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harness import options
from harness.clock import Finish, Work


@pytest.fixture(scope="session")
def device() -> torch.device:
    """A GPU if torch sees one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture(scope="session")
def finish(device: torch.device) -> Finish:
    """Turns a call into one that returns when the device has done the work."""

    def wrap(work: Work) -> Work:
        if device.type != "cuda":
            return work

        def synchronised() -> object:
            result = work()
            torch.cuda.synchronize(device)
            return result

        return synchronised

    return wrap


@pytest.fixture(scope="session")
def case(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> options.Options:
    """VGG-E with the defaults of ``bench/run.py --quick`` on this device."""
    out: Path = tmp_path_factory.mktemp("unused")
    return options.parse(["--net", "E", "--quick", "--device", str(device), "--out", str(out)])
