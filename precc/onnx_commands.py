"""The commands ``precc export``, ``precc verify`` and ``precc node-data``: ONNX files of nets that Python makes."""

import argparse
from pathlib import Path

from precc.api import export_onnx
from precc.backends.onnx.export import UNSUPPORTED
from precc.backends.onnx.flavors import FLAVORS
from precc.backends.onnx.load_plan import load_document, load_plan
from precc.backends.onnx.model_explorer import save_model_explorer_data
from precc.backends.onnx.verification.runtimes import RUNTIMES
from precc.backends.onnx.verification.slot_values import is_rounded
from precc.backends.onnx.verification.verify import verify_onnx
from precc.command_nets import example_of, net_of
from precc.files import require_place

__all__ = ["add_onnx_commands", "run_export_command", "run_node_data_command", "run_verify_command"]


def add_onnx_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``export``, ``verify`` and ``node-data`` to a parser."""
    _add_export(commands)
    verify = commands.add_parser(
        "verify",
        help="compare an exported file with the net that it was made from, value by value",
        epilog="example: precc verify lenet5.onnx --model precc.models.lenet5:LeNet5 "
        "--example precc.models.lenet5:example_inputs --weights state.pt",
    )
    verify.add_argument("file", help="an ONNX file of precc")
    verify.add_argument("--model", required=True, help="as of precc export")
    _add_net(verify, "that of the file itself, so that only values are compared")
    verify.add_argument("--runtime", choices=list(RUNTIMES), action="append", help="may be repeated (default: all)")
    data = commands.add_parser("node-data", help="write numbers for the nodes of an exported file, for Model Explorer")
    data.add_argument("file", help="an ONNX file of precc")
    data.add_argument("--what", default="bits", help="bits, or a fact such as condition (default: bits)")
    data.add_argument("--out", help="default: <file>.<what>.json")


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    export = commands.add_parser(
        "export",
        help="write a net as an ONNX file that computes what a plan says",
        epilog="example: precc export precc.models.lenet5:LeNet5 --example precc.models.lenet5:example_inputs "
        "--plan plan.json --weights state.pt --out lenet5.onnx",
    )
    export.add_argument("model", help="module:callable of Python that makes the model, or a net of precc.compile")
    _add_net(export, "the net's own")
    export.add_argument("--flavor", choices=list(FLAVORS), default="portable", help="default: portable")
    export.add_argument("--opset", type=int, help="of ONNX (default: the one that suits the flavor)")
    export.add_argument(
        "--unsupported", choices=list(UNSUPPORTED), default="error", help="slots that qdq lacks (default: error)"
    )
    export.add_argument(
        "--dynamic",
        metavar="NAMES",
        type=_dimensions,
        help="dimensions of all inputs that may change: batch, for the first, or 0=batch,1=length",
    )
    export.add_argument(
        "--external-data", action="store_true", default=None, help="tensors beside the file (default: beyond 2 GiB)"
    )
    export.add_argument("--no-sidecar", dest="sidecar", action="store_false", help="write no <out>.precc.json")
    export.add_argument("--out", default="net.onnx", help="default: net.onnx")


def _add_net(parser: argparse.ArgumentParser, plan: str) -> None:
    inputs = "the tuple of the net's inputs, a dict of them by name, or both: (args, kwargs)"
    parser.add_argument("--example", required=True, help=f"module:callable that makes {inputs}")
    parser.add_argument("--plan", help=f"a plan's JSON file, or an exported file (default: {plan})")
    parser.add_argument("--weights", help="a state dict of the model that torch.save wrote")


def _dimensions(text: str) -> str | dict[int, str]:
    if "=" not in text:
        return text
    pairs = [entry.partition("=") for entry in text.split(",")]
    if not all(number.isdecimal() for number, _, _ in pairs):
        raise argparse.ArgumentTypeError(f"expected a name, as batch, or 0=batch,1=length, got {text!r}")
    return {int(number): name for number, _, name in pairs}


def run_export_command(chosen: argparse.Namespace) -> int:
    """Run what the arguments say; the exit code."""
    require_place(Path(chosen.out))
    net = net_of(chosen, None if chosen.plan is None else load_plan(chosen.plan))
    args, kwargs = example_of(chosen)
    export_onnx(
        net,
        args,
        chosen.out,
        kwargs=kwargs,
        flavor=chosen.flavor,
        opset=chosen.opset,
        dynamic_shapes=chosen.dynamic,
        unsupported=chosen.unsupported,
        external_data=chosen.external_data,
        sidecar=chosen.sidecar,
    )
    document = load_document(chosen.out)
    rounded = sum(map(is_rounded, document.places.values()))
    counts = f"{rounded} of {len(document.places)} slots rounded"
    made = "" if chosen.weights else f"; weights as {chosen.model} makes them, for no --weights are given"
    print(f"wrote {chosen.out}: {document.flavor}, opset {document.opset}, {counts}{made}")
    return 0


def run_verify_command(chosen: argparse.Namespace) -> int:
    """Run what the arguments say; the exit code: 1 where something is wrong."""
    plan = load_plan(chosen.plan or chosen.file)
    runtimes = tuple(dict.fromkeys(chosen.runtime or RUNTIMES))
    net = net_of(chosen, plan)
    args, kwargs = example_of(chosen)
    found = verify_onnx(chosen.file, net, args, kwargs=kwargs, runtimes=runtimes)
    print(found)
    return 0 if found.ok else 1


def run_node_data_command(chosen: argparse.Namespace) -> int:
    """Run what the arguments say; the exit code."""
    out = chosen.out or f"{chosen.file}.{chosen.what}.json"
    save_model_explorer_data(chosen.file, out, chosen.what)
    print(f"wrote {out}")
    return 0
