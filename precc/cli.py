"""The ``precc`` command."""

import argparse
import sys
from collections.abc import Sequence

from precc import __version__
from precc.backends.onnx.load_plan import load_plan
from precc.calibrate_command import add_calibrate_command, run_calibrate_command
from precc.errors import PreccError
from precc.onnx_commands import (
    add_onnx_commands,
    run_export_command,
    run_node_data_command,
    run_verify_command,
)
from precc.passes.op_table import op_table
from precc.plan_commands import add_plan_commands, run_plan_command
from precc.report.format_table import format_table

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code: 0, 1 after an error of ours or in a file, 2 for wrong usage, 130 after Ctrl-C."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    code = 0
    try:
        if chosen.command == "formats":
            print(format_table())
        elif chosen.command == "ops":
            print(op_table())
        elif chosen.command == "plan":
            run_plan_command(chosen, load_plan)
        elif chosen.command == "calibrate":
            run_calibrate_command(chosen)
        elif chosen.command == "export":
            code = run_export_command(chosen)
        elif chosen.command == "verify":
            code = run_verify_command(chosen)
        elif chosen.command == "node-data":
            code = run_node_data_command(chosen)
        else:
            from precc.demo import run_demo

            run_demo(data=chosen.data, out=chosen.out, epochs=chosen.epochs, seed=chosen.seed, backend=chosen.backend)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has left, as in `precc formats | head`
        return 0
    except (PreccError, OSError) as error:
        print(f"precc: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("precc: interrupted", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="precc", description="Number formats for every operation of a PyTorch training step."
    )
    parser.add_argument("--version", action="version", version=f"precc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="train LeNet-5 on MNIST in dynamic precision, beside fp32",
        epilog="example: precc demo --data ~/mnist --epochs 3",
    )
    demo.add_argument("--data", help="folder with mnist.npz or the four IDX files (default: $PRECC_DATA, or a subset)")
    demo.add_argument("--out", default="out", help="folder for plan.json, report.txt and lenet5.onnx (default: out)")
    demo.add_argument("--epochs", type=_epochs, default=10, help="default: 10")
    demo.add_argument("--seed", type=_seed, default=0, help="default: 0")
    demo.add_argument("--backend", default="auto", help="auto, inductor, cpp or reference (default: auto)")
    commands.add_parser("formats", help="list the named formats")
    commands.add_parser("ops", help="list the classes of operators: product, elementwise, reduction, exact, kept")
    add_plan_commands(commands)
    add_calibrate_command(commands)
    add_onnx_commands(commands)
    return parser


def _epochs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 2**63 - 1, got {text!r}")
    return int(text)
