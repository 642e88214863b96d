# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors for people: every code is listed with a hint, and any exception becomes one of them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from backend import Options
from backend.errors import CODES, GanfitError, as_ganfit_error

ROOT = Path(__file__).resolve().parent.parent


def raised_codes() -> dict[str, str]:
    """Every literal first argument of `GanfitError(...)` in the backend, with the place where it stands."""
    found = {}
    for file in sorted((ROOT / "backend").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "GanfitError" and node.args:
                if isinstance(node.args[0], ast.Constant):
                    found[node.args[0].value] = f"{file.relative_to(ROOT)}:{node.lineno}"
    return found


def test_every_code_is_listed_with_a_hint() -> None:
    raised = raised_codes()
    assert len(raised) > 20
    assert {code: place for code, place in raised.items() if code not in CODES} == {}
    assert all(hint.endswith(".") for hint in CODES.values())


def test_what_a_person_gets() -> None:
    error = GanfitError("no_face", "No face was found in me.jpg.")
    assert str(error) == "no_face: No face was found in me.jpg."
    assert error.to_dict() == {"code": "no_face", "message": error.message, "hint": CODES["no_face"]}
    assert GanfitError("no_face", "x", "Do this.").hint == "Do this."


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out_of_memory"),
        (RuntimeError("shapes do not match"), "internal"),
        (ZeroDivisionError("division by zero"), "internal"),
        (KeyboardInterrupt(), "cancelled"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "package_missing"),
        (GanfitError("no_face", "x"), "no_face"),
    ],
)
def test_any_exception_becomes_one(error: BaseException, code: str) -> None:
    assert as_ganfit_error(error).code == code


def test_torchs_own_allocation_error_is_known() -> None:
    """Asking torch for an exabyte fails the way a real shortage does."""
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert as_ganfit_error(caught.value).code == "out_of_memory", caught.value


@pytest.mark.parametrize(
    "values",
    [
        {"preset": "fast"},
        {"preset": ["draft"]},
        {"device": None},
        {"seed": -1},
        {"seed": 1.0},
        {"seed": True},
        {"face": "0"},
        {"face": -1},
        {"iterations": 0},
        {"generator": ""},
        {"generator": 3},
        {"out": "nul\0byte"},
        {"colour": "red"},
    ],
)
def test_bad_options_are_refused(values: dict) -> None:
    with pytest.raises(GanfitError) as caught:
        Options.from_dict(values)
    assert caught.value.code == "bad_option" and str(next(iter(values))) in caught.value.message


def test_options_survive_json() -> None:
    import json

    options = Options(preset="draft", seed=3, face=1, out=Path("/tmp/x"))
    assert Options.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    assert options.replace(seed=4).seed == 4
