"""What a setting may be: each check is one clear line when it fails."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from vggfast.errors import InputError


def text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InputError(f"{name}: got {value!r}, allowed is a string")


def boolean(name: str, value: object, optional: bool = False) -> None:
    if not isinstance(value, bool) and not (value is None and optional):
        raise InputError(f"{name}: got {value!r}, allowed are True and False")


def integer(name: str, value: object, low: int, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise InputError(f"{name}: got {value!r}, allowed are whole numbers from {low} up")


def real(
    name: str, value: object, low: float, high: float, allowed: str, open_low: bool = False
) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= float(value) < high or (open_low and value == low):  # type: ignore[arg-type]
        raise InputError(f"{name}: got {value!r}, allowed is {allowed}")


def one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    names = tuple(allowed)
    if not isinstance(value, str) or value not in names:
        raise InputError(f"{name}: got {value!r}, allowed are {', '.join(names)}")


def scale(value: object, size: int) -> None:
    text("scale", value)
    assert isinstance(value, str)
    if not value:
        return
    parts = value.split(":")
    whole = len(parts) <= 2 and all(p.isdecimal() for p in parts)
    if not whole or not size <= int(parts[0]) <= int(parts[-1]):
        raise InputError(
            f"scale: got {value!r}, allowed are S or SMIN:SMAX with {size} (size) <= SMIN <= SMAX"
        )


def interval(value: str) -> tuple[int, float]:
    """(steps, seconds) of "N" or "Nm"; what is not asked for is 0."""
    number = value.removesuffix("m")
    if value and not (number.isdecimal() and int(number)):
        raise InputError(
            f"checkpoint_every: got {value!r}, allowed are a number of steps, as 500, or of "
            "minutes, as 10m"
        )
    if value.endswith("m"):
        return 0, 60.0 * int(number)
    return int(value or 0), 0.0


def device(name: str) -> None:
    if name in ("auto", "cpu"):
        return
    count = torch.cuda.device_count()
    seen = ["cuda", *(f"cuda:{i}" for i in range(count))] if count else []
    if name not in seen:
        raise InputError(
            f"device: got {name!r}, allowed here are {', '.join(['auto', 'cpu', *seen])}"
        )


def resolved_device(name: str) -> torch.device:
    """The device that ``name`` means, "auto" being a GPU if torch sees one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
