"""What is available: told in both forms, and told too where things are broken."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from vggfast import backends
from vggfast.backends import native
from vggfast.info import collect as module
from vggfast.info.cli import main

# The package exports the function of the same name.
collecting = sys.modules["vggfast.info.collect"]


def test_both_forms(capsys):
    assert main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["gpu"]["available"] == torch.cuda.is_available()
    assert set(facts["backends"]["usable"]) == set(backends.names())
    assert facts["backends"]["usable"]["eager"] == "yes"
    assert facts["extension"]["loaded"] == (native.why_missing() is None)
    assert main([]) == 0
    text = capsys.readouterr().out
    assert backends.explain().splitlines()[1].strip() in text
    assert f"torch        {torch.__version__}" in text
    assert main(["--colour"]) == 2
    assert "--colour" in capsys.readouterr().err


def test_nothing_that_is_broken_ends_it(monkeypatch, capsys):
    def broken(*_args: object, **_options: object) -> None:
        raise OSError("libcuda is\nnot what it was")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    monkeypatch.setattr(native, "why_missing", broken)
    monkeypatch.setattr(collecting.importlib.metadata, "requires", broken)
    monkeypatch.setattr(collecting.platform, "platform", broken)
    facts = module()
    assert facts["gpu"] == "unknown: OSError: libcuda is"
    assert facts["extension"] == facts["extras"] == facts["gpu"] == facts["versions"]
    assert facts["cpu"]["cores"] >= 1
    assert main([]) == 0
    assert "gpu: unknown: OSError" in capsys.readouterr().out


def test_an_extra_says_what_to_install(monkeypatch):
    asked = ["rich>=13; extra == 'train'", 'no-such-package>=1; extra == "bench"', "numpy>=1.24"]
    monkeypatch.setattr(collecting.importlib.metadata, "requires", lambda _name: asked)
    extras = module()["extras"]
    assert set(extras) == {"train", "bench"}
    assert extras["bench"]["missing"] == ["no-such-package"]
    assert extras["bench"]["install"] == "pip install 'vggfast[bench]'"


def test_a_missing_extension_is_told(monkeypatch):
    monkeypatch.setattr(native, "why_missing", lambda: "the native extension did not load (x)")
    assert module()["extension"] == {
        "loaded": False,
        "why": "the native extension did not load (x)",
    }


@pytest.mark.parametrize("value", [1, 0])
def test_numbers_are_not_answers(value, capsys, monkeypatch):
    monkeypatch.setattr("vggfast.info.cli.collect", lambda: {"cpu": {"cores": value, "ok": True}})
    assert main([]) == 0
    assert capsys.readouterr().out.split() == ["cpu", "cores", str(value), "ok", "yes"]
