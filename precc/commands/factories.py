"""Models for commands: what Python code of the user's makes, named ``MODEL.py:factory`` or ``package.module:factory``.

A factory takes nothing and gives a `precc.Task`, or ``(module, example_args)``, or ``(module, example_args, loss)``
with ``loss(output)``, one real number. The example's arguments are a tuple of inputs, the only one, a dict of inputs by
name, or ``(tuple, dict)``.
"""

import argparse
import hashlib
import importlib
import importlib.util
import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from precc.checkpoint import values_of
from precc.commands.arguments import add_file, seed
from precc.commands.users_errors import of_users, told
from precc.errors import CaptureError, DataError, PlanError
from precc.models.tasks import TASKS
from precc.task import Task

__all__ = ["EXAMPLE", "WEIGHTS_HELP", "add_factory", "add_model", "load_weights", "task_of", "task_of_spec", "whole"]


#: What ``--weights`` takes.
WEIGHTS_HELP = "a state dict of the model, or a checkpoint of precc, as run/checkpoint.pt"

#: What the last line of a factory may be.
EXAMPLE = "return model, (x,), lambda output: F.cross_entropy(output, y)"


def add_factory(parser: argparse.ArgumentParser, *others: str) -> None:
    """The arguments ``model``, ``--weights`` and ``--seed``; `others` are what may stand in the place of a model."""
    add_model(parser, *others)
    add_file(parser, "--weights", metavar="FILE", help=f"{WEIGHTS_HELP}, which torch.save wrote")
    parser.add_argument("--seed", type=seed, default=0, help="of torch, before the factory is called (default: 0)")


def add_model(parser: argparse.ArgumentParser, *others: str, **options: Any) -> None:
    """The argument ``model``."""
    what = "MODEL.py:factory or package.module:factory, where factory() gives (module, example_args), (module, "
    what += f"example_args, loss) or a precc.Task, as in: {EXAMPLE}; or one of {', '.join(TASKS)}"
    add_file(parser, "model", metavar="MODEL", help="".join([what, *(f"; or {own}" for own in others)]), **options)


def whole(spec: str) -> str:
    """The same name of a factory from every folder."""
    place, _, name = spec.rpartition(":")
    return f"{Path(place).resolve()}:{name}" if _is_path(place) else spec


def task_of(chosen: argparse.Namespace) -> Task:
    """The task of the arguments ``model``, ``weights`` and ``seed``.

    Raises:
        PlanError, CaptureError, DataError: there is none; the message says why, in one line.
    """
    task = task_of_spec(chosen.model, chosen.seed)
    if chosen.weights is not None:
        load_weights(task.module, chosen.weights)
    return task


def task_of_spec(spec: str, start: int = 0) -> Task:
    """What a factory makes, as a task; torch's generators start from a seed.

    Raises:
        PlanError, CaptureError: it makes none; the message says why, in one line.
    """
    torch.manual_seed(start)
    if spec in TASKS:
        return TASKS[spec]()
    with _imports_from(_folder_of(spec)):
        make = _found(spec)
        if not callable(make):
            raise PlanError(f"{spec!r} is a {type(make).__name__}, not a factory, which is a function")
        with of_users(f"the factory {spec!r}"):
            made = make()
    try:
        return _task(made)
    except CaptureError as error:
        raise CaptureError(f"{spec!r}: {error}") from None


def load_weights(model: nn.Module, path: str) -> None:
    """Load a state dict from a file, or the values of the net in a checkpoint of precc.

    Raises:
        DataError, CaptureError: the file holds none, or that of another model.
    """
    try:
        model.load_state_dict(values_of(torch.load(path, map_location="cpu", weights_only=True), path))
    except (pickle.UnpicklingError, EOFError) as error:
        reason = str(error).partition("\n")[0]  # the others are advice to trust the file
        raise DataError(f"{path!r} holds no state dict that torch.load can read safely: {reason}") from error
    except (RuntimeError, TypeError, AttributeError) as error:
        what = " ".join(str(error).split())
        raise CaptureError(f"the weights of {path!r} are not those of {type(model).__name__}: {what}") from error


def _task(made: Any) -> Task:
    if isinstance(made, Task):
        return made
    if isinstance(made, nn.Module):
        raise CaptureError(
            f"it makes a {type(made).__name__} alone: return the example's inputs too, (module, example_args), and a "
            f"loss, as in: {EXAMPLE}"
        )
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[0], nn.Module):
        raise CaptureError(
            f"it makes {_kind(made)}, not (module, example_args), (module, example_args, loss) or a precc.Task"
        )
    loss = made[2] if len(made) == 3 else None
    inputs, named = _example(made[1])
    return Task(made[0], inputs, named_inputs=named, loss=loss)


def _example(made: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(made, Tensor):
        return (made,), {}
    if isinstance(made, Mapping):
        return (), made
    if not isinstance(made, tuple):
        raise CaptureError(
            f"the example's arguments are {_kind(made)}, not the tuple of the net's inputs, a dict of them by name, or "
            "both: (tuple, dict)"
        )
    if len(made) == 2 and isinstance(made[0], tuple) and isinstance(made[1], Mapping):
        return made[0], made[1]
    return made, {}


def _kind(made: Any) -> str:
    inside = f" of {', '.join(type(own).__name__ for own in made[:4])}" if isinstance(made, (tuple, list)) else ""
    return f"a {type(made).__name__}{inside}"


def _folder_of(spec: str) -> str:
    """Where imports of a factory's module look first: its own folder, as of a script, or the present one."""
    path = spec.rpartition(":")[0]
    return str(Path(path).resolve().parent) if _is_path(path) else os.getcwd()


def _is_path(module: str) -> bool:
    return module.endswith(".py") or os.sep in module


@contextmanager
def _imports_from(folder: str) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path[:] = before


def _found(spec: str) -> Any:
    place, _, name = spec.rpartition(":")
    parts = () if _is_path(place) else place.split(".")
    if not all(part.isidentifier() for part in (*parts, *name.split("."))):
        hint = f"; {', '.join(TASKS)} have short names" if ":" not in spec else ""
        raise PlanError(f"{spec!r} is neither MODEL.py:factory nor package.module:factory{hint}")
    with _one_line(spec):
        found: Any = _of_file(Path(place)) if _is_path(place) else importlib.import_module(place)
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise PlanError(f"{spec!r} is not there: {place} has no attribute {part!r}") from error
    return found


@contextmanager
def _one_line(spec: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise PlanError(f"{spec!r} is not there: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too, and what users derive from BaseException
        raise PlanError(f"{spec!r} cannot be imported: {told(error)}") from error


def _of_file(path: Path) -> ModuleType:
    """A module of a file, anew, under a name that no import has."""
    if not path.is_file():
        raise ModuleNotFoundError(f"there is no file {str(path)!r}")
    name = f"_precc_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"{str(path)!r} is no file of Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, pickles and Dynamo look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
