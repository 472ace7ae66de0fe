"""Bad input: one line that names the argument, what was given and what is allowed."""

from __future__ import annotations

import pytest
import torch

from vggfast import ops
from vggfast.errors import BackendError, InputError

X, W, B = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ops.conv3x3(X[0], W), ["x:", "(3, 8, 8)", "(N, C_in, H, W)"]),
        (lambda: ops.conv3x3(X, W[0]), ["w:", "(C_out, C_in, 3, 3)"]),
        (lambda: ops.conv3x3(X, torch.randn(4, 5, 3, 3)), ["w:", "(4, 5, 3, 3)", "C_in = 3"]),
        (lambda: ops.conv3x3(X, torch.randn(4, 3, 5, 5)), ["w:", "(4, 3, 5, 5)"]),
        (lambda: ops.conv3x3(X, W, B[:2]), ["b:", "(2,)", "(4,)"]),
        (lambda: ops.conv3x3(X.int(), W), ["x:", "int32", "float32"]),
        (lambda: ops.conv3x3(X, W.double()), ["w:", "float64", "float32"]),
        (lambda: ops.conv3x3(X, W, B.half()), ["b:", "float16", "float32"]),
        (lambda: ops.conv3x3(X, W.to("meta")), ["w:", "meta", "cpu"]),
        (lambda: ops.conv3x3(X[:, :, :1], W, pool=True), ["x:", "H, W >= 2"]),
        (lambda: ops.conv3x3(X[:, :, :0], W), ["x:", "H, W >= 1"]),
        (lambda: ops.conv3x3("x", W), ["x:", "str", "torch.Tensor"]),
        (lambda: ops.conv3x3(X, W, backend="cudnn"), ["backend:", "'cudnn'", "eager, cpu, triton"]),
        (lambda: ops.maxpool2x2(X[..., :1]), ["x:", "H, W >= 2"]),
        (lambda: ops.maxpool2x2(X[0]), ["x:", "(N, C, H, W)"]),
        (lambda: ops.conv1x1(X, W), ["w:", "(4, 3, 3, 3)"]),
        (lambda: ops.linear(torch.randn(2, 3), torch.randn(4, 5)), ["w:", "(4, 5)", "F_in = 3"]),
        (lambda: ops.linear(torch.randn(3), torch.randn(4, 3)), ["x:", "(N, F_in)"]),
        (lambda: ops.lrn(X, n=0), ["n:", "0", "at least 1"]),
    ],
)
def test_names_the_argument(call, words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_a_forced_backend_never_falls_back():
    with pytest.raises(BackendError, match=r"'cpu'.*float32 and bfloat16 only, not float64"):
        ops.conv3x3(X.double(), W.double(), backend="cpu")


def test_differentiating_a_call_that_kept_no_argmax_is_an_error():
    w = W.clone().requires_grad_()
    y, _ = torch.ops.vggfast.conv3x3(X, w, None, True, True, False, None)
    with pytest.raises(RuntimeError, match="save_argmax=False"):
        y.sum().backward()
