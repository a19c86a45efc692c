"""``precc export``: a net as an ONNX file that computes what a plan says."""

import argparse

from precc.api import export_onnx
from precc.backends.onnx.export import UNSUPPORTED
from precc.backends.onnx.flavors import FLAVORS
from precc.backends.onnx.load_plan import load_document
from precc.backends.onnx.verification.slot_values import is_rounded
from precc.commands.arguments import add_file
from precc.commands.command import Command
from precc.commands.factories import add_factory, task_of
from precc.commands.output import progress, say
from precc.commands.places import writable_file
from precc.commands.steps import add_plan, compiled, plan_of, tried

__all__ = ["EXPORT"]


def _add(parser: argparse.ArgumentParser) -> None:
    add_factory(parser)
    add_plan(parser, "the net's own")
    parser.add_argument("--flavor", choices=list(FLAVORS), default="portable", help="default: portable")
    parser.add_argument("--opset", type=int, help="of ONNX (default: the one that suits the flavor)")
    parser.add_argument(
        "--unsupported", choices=list(UNSUPPORTED), default="error", help="slots that qdq lacks (default: error)"
    )
    parser.add_argument(
        "--dynamic",
        metavar="NAMES",
        type=_dimensions,
        help="dimensions of all inputs that may change: batch, for the first, or 0=batch,1=length",
    )
    parser.add_argument(
        "--external-data", action="store_true", default=None, help="tensors beside the file (default: beyond 2 GiB)"
    )
    parser.add_argument("--no-sidecar", dest="sidecar", action="store_false", help="write no <out>.precc.json")
    add_file(parser, "--out", default="net.onnx", help="default: net.onnx")


def _dimensions(text: str) -> str | dict[int, str]:
    if "=" not in text:
        return text
    pairs = [entry.partition("=") for entry in text.split(",")]
    if not all(number.isdecimal() for number, _, _ in pairs):
        raise argparse.ArgumentTypeError(f"expected a name, as batch, or 0=batch,1=length, got {text!r}")
    return {int(number): name for number, _, name in pairs}


def _run(chosen: argparse.Namespace) -> int:
    writable_file(chosen.out)
    plan = None if chosen.plan is None else plan_of(chosen.plan)
    task = task_of(chosen)
    with progress(chosen, None) as bar:
        tried(task)
        bar.at(f"writing {chosen.out}")
        export_onnx(
            compiled(task, plan),
            task.inputs,
            chosen.out,
            kwargs=dict(task.named_inputs),
            flavor=chosen.flavor,
            opset=chosen.opset,
            dynamic_shapes=chosen.dynamic,
            unsupported=chosen.unsupported,
            external_data=chosen.external_data,
            sidecar=chosen.sidecar,
        )
    _tell(chosen)
    return 0


def _tell(chosen: argparse.Namespace) -> None:
    document = load_document(chosen.out)
    rounded = sum(map(is_rounded, document.places.values()))
    counts = f"{rounded} of {len(document.places)} slots rounded"
    made = "" if chosen.weights else f"; weights as {chosen.model} makes them, for no --weights are given"
    own = {"flavor": document.flavor, "opset": document.opset, "slots": len(document.places), "rounded": rounded}
    said = f"wrote {chosen.out}: {document.flavor}, opset {document.opset}, {counts}{made}"
    say(chosen, {"wrote": [chosen.out], **own}, said)


EXPORT = Command(
    "export",
    "write a net as an ONNX file that computes what a plan says",
    "example: precc export net.py:factory --plan plan.json --weights state.pt --out net.onnx",
    _add,
    _run,
)
