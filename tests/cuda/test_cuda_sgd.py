"""The SGD kernel: torch.optim.SGD's update, for tables of tensors of every size and alignment."""

from __future__ import annotations

import pytest
import torch

from vggfast import optim
from vggfast.backends import cuda_sgd
from vggfast.errors import LaunchError
from vggfast.optim import sgd

SHAPES = [(64, 3, 3, 3), (7,), (1,), (33, 5), (0,), (129, 128)]  # parts of groups, several chunks
CASES = [
    {"momentum": 0.9, "weight_decay": 5e-4},
    {},
    {"weight_decay": 0.1, "maximize": True},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 1e-3},
]


def _params(dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    params = [torch.randn(s).to(device, dtype) for s in SHAPES]
    params[0] = params[0].contiguous(memory_format=torch.channels_last)
    params.append(torch.randn(40).to(device, dtype)[1:38])  # off every multiple of 16 bytes
    return [p.requires_grad_() for p in params]


def _gradients(params: list[torch.Tensor], step: int) -> list[torch.Tensor]:
    torch.manual_seed(step)
    return [torch.randn(p.shape).to(p).as_strided(p.shape, p.stride()) for p in params]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_is_torchs(case, device):
    ours = _params(torch.float32, device)
    theirs = [p.detach().cpu().clone().requires_grad_() for p in ours]
    optimizers = optim.SGD(ours, 0.1, **case), torch.optim.SGD(theirs, 0.1, **case)
    assert "own kernel" in optimizers[0].how()
    for step in range(3):
        for p, q, g in zip(ours, theirs, _gradients(ours, step), strict=True):
            p.grad, q.grad = g, g.cpu()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        # Each add of torch is one rounding here too; a CPU without FMA rounds twice.
        torch.testing.assert_close(p.cpu(), q, rtol=1e-6, atol=1e-7)
    state, wanted = (o.state_dict()["state"] for o in optimizers)
    assert state.keys() == wanted.keys() or not case.get("momentum")
    for i in wanted:
        if (buffer := wanted[i].get("momentum_buffer")) is not None:
            torch.testing.assert_close(
                state[i]["momentum_buffer"].cpu(), buffer, rtol=1e-6, atol=1e-7
            )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits_are_the_rounded_copy_of_float32_weights(dtype, device):
    ours = _params(dtype, device)
    theirs = [p.detach().float().cpu().requires_grad_() for p in ours]
    case = {"momentum": 0.9, "weight_decay": 5e-4}
    optimizers = optim.SGD(ours, 1e-3, **case), torch.optim.SGD(theirs, 1e-3, **case)
    for step in range(3):
        for p, q, g in zip(ours, theirs, _gradients(ours, step), strict=True):
            p.grad, q.grad = g, g.float().cpu()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        master = optimizers[0].state[p]["master_param"]
        assert torch.equal(p, master.to(dtype))
        torch.testing.assert_close(master.cpu(), q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_rounding_is_torchs_for_every_kind_of_number(dtype, device):
    """All bit patterns survive; halves, subnormals and overflow round as torch's."""
    step = cuda_sgd.Step(-1.0, 0.0, 0.0, 0.0, False, False)  # param += grad
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).to(device)
    param, copy = torch.zeros(2**16, device=device), torch.empty(2**16, device=device, dtype=dtype)
    cuda_sgd.update([cuda_sgd.Tensors(param, patterns, None, copy, False)], step)
    torch.testing.assert_close(param, patterns.float(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(copy, patterns, rtol=0, atol=0, equal_nan=True)
    bits = torch.randint(-(2**31), 2**31 - 1, (2**14,), dtype=torch.int64).to(torch.int32)
    nearby = patterns[::8].float().repeat(2) * torch.tensor([1 + 2**-9, 1 + 2**-12]).to(
        device
    ).repeat_interleave(2**13)
    values = torch.cat([bits.view(torch.float32).to(device), nearby, torch.zeros(8, device=device)])
    param, zero = values.clone(), torch.zeros(values.shape, device=device, dtype=dtype)
    copy = torch.empty_like(zero)
    cuda_sgd.update([cuda_sgd.Tensors(param, zero, None, copy, False)], step)
    torch.testing.assert_close(copy, values.to(dtype), rtol=0, atol=0, equal_nan=True)


def test_more_parameters_than_a_table_holds(device, monkeypatch):
    launches = []
    launch = cuda_sgd.launch
    monkeypatch.setattr(cuda_sgd, "launch", lambda *a: launches.append(a) or launch(*a))
    params = [torch.full((3,), float(i), device=device).requires_grad_() for i in range(85)]
    for p in params:
        p.grad = torch.ones_like(p)
    optim.SGD(params, 1.0).step()
    assert len(launches) == 2
    for i, p in enumerate(params):
        assert (p == i - 1).all()


def test_a_gradient_laid_out_otherwise_goes_to_torch(device):
    p = torch.randn(4, 6).to(device).requires_grad_()
    p.grad = torch.randn(6, 4).to(device).t()
    want = p.detach() - 0.5 * p.grad
    assert not sgd._served(p)
    optim.SGD([p], 0.5).step()
    torch.testing.assert_close(p.detach(), want)


def test_autograd_notices_the_update(device):
    p = torch.randn(4).to(device).requires_grad_()
    y = p.square().sum()
    p.grad = torch.ones_like(p)
    optim.SGD([p], 0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_a_nan_gradient_stays_in_its_element(device):
    p = torch.ones(9, device=device).requires_grad_()
    p.grad = torch.ones_like(p)
    p.grad[4] = float("nan")
    optim.SGD([p], 0.1, momentum=0.9).step()
    assert p.isnan().nonzero().flatten().tolist() == [4]


def test_a_launch_that_fails_leaves_no_momentum(device, monkeypatch):
    """Its memory holds nothing yet: the next step must not take it for momentum."""
    p = torch.ones(5, device=device).requires_grad_()
    p.grad = torch.ones_like(p)
    optimizer = optim.SGD([p], 0.5, momentum=0.9)

    def fail(*_):
        raise LaunchError("sgd<float>: no")

    monkeypatch.setattr(cuda_sgd, "_launch", fail)
    with pytest.raises(LaunchError):
        optimizer.step()
    assert not optimizer.state[p]
