"""What cannot be captured, and the message that says why."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vggfast
from vggfast import InputError
from vggfast.graph import checks


def sgd(model: nn.Module, **options: object) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), 0.1, **{"fused": True, **options})  # type: ignore[arg-type]


def message(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_cpu_is_refused() -> None:
    model, x = nn.Linear(4, 2), torch.zeros(1, 4)
    assert message(lambda: vggfast.capture(model.eval(), x)) == (
        "example: got device cpu, allowed is a CUDA device: CUDA graphs need a GPU"
    )
    call = lambda: vggfast.capture_step(model.train(), loss, sgd(model), x, x)  # noqa: E731
    assert message(call).startswith("x: got device cpu, allowed is a CUDA device")


def loss(output: Tensor, y: Tensor) -> Tensor:
    return (output - y).square().mean()


def test_models() -> None:
    x = torch.zeros(1, 4)
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    assert message(lambda: vggfast.capture(model, x)) == (
        "model: got training mode, allowed is eval mode: call model.eval()"
    )
    model.eval()
    step = lambda: vggfast.capture_step(model, loss, sgd(model), x, x)  # noqa: E731
    assert "got eval mode, allowed is training mode: call model.train()" in message(step)
    assert message(lambda: vggfast.capture(len, x)).startswith("model: got builtin_function")  # type: ignore[arg-type]
    model[0].register_forward_hook(lambda *a: None)
    assert "a hook or a replaced forward on 0" in message(lambda: vggfast.capture(model, x))


def test_parameters_elsewhere() -> None:
    device = torch.device("meta")
    assert message(lambda: checks.together(nn.Linear(2, 2), device)) == (
        "model: got weight on cpu, allowed is meta, as the example is"
    )
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    assert "made in torch.inference_mode()" in message(
        lambda: checks.together(model, torch.device("cpu"))
    )


def test_optimizers() -> None:
    model, cpu = nn.Linear(2, 2), torch.device("cpu")
    checks.optimizer(sgd(model, momentum=0.9), cpu)
    for given, said in (
        (torch.optim.Adam(model.parameters()), "got Adam, allowed is torch.optim.SGD"),
        (sgd(model, fused=False), "got SGD with fused=False, allowed is fused=True"),
        (sgd(model, momentum=0.9, dampening=0.5), "got dampening 0.5 before the first step"),
    ):
        assert said in message(lambda given=given: checks.optimizer(given, cpu))
    with_hook = sgd(model)
    with_hook.register_step_post_hook(lambda *a: None)
    assert "step hooks" in message(lambda: checks.optimizer(with_hook, cpu))
    assert "got a parameter on cpu" in message(
        lambda: checks.optimizer(sgd(model), torch.device("meta"))
    )
    damped = sgd(model, momentum=0.9, dampening=0.5)
    model(torch.ones(1, 2)).sum().backward()
    damped.step()
    checks.optimizer(damped, cpu)


def test_calls() -> None:
    static = torch.zeros(2, 3)
    assert checks.like("x", static, static) is static
    for given, said in (
        (torch.zeros(4, 3), "x: got shape (4, 3), allowed is (2, 3), which was captured"),
        (static.double(), "x: got dtype torch.float64, allowed is torch.float32"),
        (static.to("meta"), "x: got device meta, allowed is cpu"),
        ([1], "x: got list, allowed is a torch.Tensor"),
    ):
        assert re.match(re.escape(said), message(lambda g=given: checks.like("x", g, static)))
