"""Two processes that train an accelerated network under DDP agree with one on the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vggfast
from tests.train.test_processes import free_port

from .networks import TorchvisionVGG

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3


def batch() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def trained(model: torch.nn.Module, x: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def process(rank: int, folder: Path) -> None:
    """What each of the two processes runs; the environment has the rest."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(rank)  # DDP sends the first process's weights to the other
    model = vggfast.accelerate(TorchvisionVGG(), inplace=True)
    trained(torch.nn.parallel.DistributedDataParallel(model), batch()[2 * rank : 2 * rank + 2])
    torch.save(model.state_dict(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.long
def test_two_processes_agree_with_one(tmp_path: Path, one_thread: None) -> None:
    port = str(free_port())
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.acceleration.test_processes", str(rank), str(tmp_path)],
            cwd=ROOT,
            env=os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2",
                              "RANK": str(rank), "PYTHONPATH": str(ROOT)},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    assert [p.wait(timeout=280) for p in running] == [0, 0]
    torch.manual_seed(0)
    model = TorchvisionVGG()
    trained(model, batch())
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, right in model.state_dict().items():
        assert torch.equal(both[0][name], both[1][name])
        torch.testing.assert_close(both[0][name], right, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    process(int(sys.argv[1]), Path(sys.argv[2]))
