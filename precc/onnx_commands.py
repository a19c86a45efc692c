"""The commands ``precc export`` and ``precc verify``: ONNX files of nets that Python makes."""

import argparse
import importlib
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from precc.api import compile, export_onnx
from precc.backends.onnx.flavors import FLAVORS
from precc.backends.onnx.load_plan import load_document, load_plan
from precc.backends.onnx.runtimes import RUNTIMES
from precc.backends.onnx.slot_values import is_rounded
from precc.backends.onnx.verify import verify_onnx
from precc.errors import CaptureError, DataError, PlanError
from precc.files import require_place
from precc.module import PrecisionModule
from precc.plan import PrecisionPlan

__all__ = ["add_onnx_commands", "run_export_command", "run_verify_command"]


def add_onnx_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``export`` and ``verify`` to a parser."""
    export = commands.add_parser(
        "export",
        help="write a net as an ONNX file that computes what a plan says",
        epilog="example: precc export precc.models.lenet5:LeNet5 --example precc.models.lenet5:example_inputs "
        "--plan plan.json --weights state.pt --out lenet5.onnx",
    )
    export.add_argument("model", help="module:callable of Python that makes the model, or a net of precc.compile")
    _add_net(export)
    export.add_argument("--flavor", choices=list(FLAVORS), default="portable", help="default: portable")
    export.add_argument("--opset", type=int, help="of ONNX (default: the one that suits the flavor)")
    export.add_argument("--dynamic", metavar="NAME", help="the first dimension of all inputs may change, by this name")
    export.add_argument("--out", default="net.onnx", help="default: net.onnx")
    verify = commands.add_parser(
        "verify",
        help="compare an exported file with the net that it was made from, value by value",
        epilog="example: precc verify lenet5.onnx --model precc.models.lenet5:LeNet5 "
        "--example precc.models.lenet5:example_inputs --weights state.pt",
    )
    verify.add_argument("file", help="an ONNX file of precc")
    verify.add_argument("--model", required=True, help="as of precc export")
    _add_net(verify)
    verify.add_argument("--runtime", choices=list(RUNTIMES), action="append", help="may be repeated (default: all)")


def _add_net(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--example", required=True, help="module:callable that makes the tuple of the net's inputs")
    parser.add_argument(
        "--plan", help="a plan's JSON file, or an exported file (default: the net's own, or the file's)"
    )
    parser.add_argument("--weights", help="a state dict of the model that torch.save wrote")


def run_export_command(chosen: argparse.Namespace) -> int:
    """Run what the arguments say; the exit code."""
    require_place(Path(chosen.out))
    net = _net(chosen, None if chosen.plan is None else load_plan(chosen.plan))
    options = {"flavor": chosen.flavor, "opset": chosen.opset, "dynamic_shapes": chosen.dynamic}
    export_onnx(net, _example(chosen), chosen.out, **options)
    document = load_document(chosen.out)
    rounded = sum(map(is_rounded, document.places.values()))
    counts = f"{rounded} of {len(document.places)} slots rounded"
    print(f"wrote {chosen.out}: {document.flavor}, opset {document.opset}, {counts}")
    return 0


def run_verify_command(chosen: argparse.Namespace) -> int:
    """Run what the arguments say; the exit code: 1 where something is wrong."""
    plan = load_plan(chosen.plan or chosen.file)
    runtimes = tuple(dict.fromkeys(chosen.runtime or RUNTIMES))
    found = verify_onnx(chosen.file, _net(chosen, plan), _example(chosen), runtimes=runtimes)
    print(found)
    return 0 if found.ok else 1


def _net(chosen: argparse.Namespace, plan: PrecisionPlan | None) -> PrecisionModule:
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


def _example(chosen: argparse.Namespace) -> tuple[Any, ...]:
    made = _called(chosen.example, "example")
    if isinstance(made, Tensor):
        return (made,)
    if not isinstance(made, tuple):
        raise CaptureError(f"{chosen.example!r} makes a {type(made).__name__}, not the tuple of the net's inputs")
    return made


def _called(spec: str, what: str) -> Any:
    """What a ``module:callable`` makes; modules are looked for in the current folder too."""
    module, _, name = spec.partition(":")
    if not module or not name:
        raise PlanError(f"the {what} {spec!r} is not of the form module:callable")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise PlanError(f"the {what} {spec!r} is not there: {error}") from error
    if not callable(found):
        raise PlanError(f"the {what} {spec!r} is a {type(found).__name__}, not a callable")
    make: Callable[[], Any] = found
    return make()
