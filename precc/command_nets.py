"""Nets and inputs for commands: what Python code of the user's makes, named ``module:callable``."""

import argparse
import importlib
import os
import pickle
import sys
from typing import Any

import torch
from torch import Tensor, nn

from precc.api import compile
from precc.errors import CaptureError, DataError, PlanError, PreccError
from precc.module import PrecisionModule
from precc.plan import PrecisionPlan

__all__ = ["example_of", "net_of"]


def net_of(chosen: argparse.Namespace, plan: PrecisionPlan | None) -> PrecisionModule:
    """The net of the arguments ``model`` and ``weights``, compiled, under a plan if there is one.

    Raises:
        PlanError, CaptureError, DataError: there is none; the message says why, in one line.
    """
    made = _called(chosen.model, "model")
    if not isinstance(made, nn.Module):
        raise CaptureError(f"{chosen.model!r} makes a {type(made).__name__}, not a module")
    if chosen.weights is not None:
        _load(made, chosen.weights)
    if not isinstance(made, PrecisionModule):
        return compile(made, plan=plan, backend="reference")
    if plan is not None:
        made.set_plan(plan)
    return made


def _load(model: nn.Module, path: str) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except (pickle.UnpicklingError, EOFError) as error:
        reason = str(error).partition("\n")[0]  # the others are advice to trust the file
        raise DataError(f"{path!r} holds no state dict that torch.load can read safely: {reason}") from error
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CaptureError(f"the weights of {path!r} are not those of {type(model).__name__}: {error}") from error


def example_of(chosen: argparse.Namespace) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs that the argument ``example`` makes: those in order, and those by name.

    Raises:
        PlanError, CaptureError: there are none; the message says why, in one line.
    """
    made = _called(chosen.example, "example")
    if isinstance(made, Tensor):
        return (made,), {}
    if isinstance(made, dict):
        return (), made
    if not isinstance(made, tuple):
        raise CaptureError(
            f"{chosen.example!r} makes a {type(made).__name__}, not the tuple of the net's inputs, a dict of them by "
            "name, or both"
        )
    if len(made) == 2 and isinstance(made[0], tuple) and isinstance(made[1], dict):
        return made
    return made, {}


def _called(spec: str, what: str) -> Any:
    """What a ``module:callable`` makes; modules are looked for in the current folder too."""
    make = _found(spec, what)
    if not callable(make):
        raise PlanError(f"the {what} {spec!r} is a {type(make).__name__}, not a callable")
    try:
        return make()
    except PreccError:
        raise
    except Exception as error:
        raise CaptureError(f"the {what} {spec!r} fails: {_told(error)}") from error


def _found(spec: str, what: str) -> Any:
    module, _, name = spec.partition(":")
    if not name or not all(part.isidentifier() for part in module.split(".")):
        raise PlanError(f"the {what} {spec!r} is not of the form module:callable")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise PlanError(f"the {what} {spec!r} is not there: {error}") from error
    except Exception as error:
        raise PlanError(f"the {what} {spec!r} cannot be imported: {_told(error)}") from error
    return found


def _told(error: Exception) -> str:
    """In one line."""
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0]
