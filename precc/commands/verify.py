"""``precc verify``: whether an exported file computes what the net does."""

import argparse
from dataclasses import asdict

from precc.backends.onnx.load_plan import load_plan
from precc.backends.onnx.verification.runtimes import RUNTIMES
from precc.backends.onnx.verification.verify import verify_onnx
from precc.commands.arguments import add_file
from precc.commands.command import Command
from precc.commands.factories import add_factory, task_of
from precc.commands.output import progress, say
from precc.commands.steps import add_plan, compiled, plan_of, tried

__all__ = ["VERIFY"]


def _add(parser: argparse.ArgumentParser) -> None:
    add_file(parser, "file", help="an ONNX file of precc")
    add_factory(parser)
    add_plan(parser, "that of the file itself, so that only values are compared")
    parser.add_argument("--runtime", choices=list(RUNTIMES), action="append", help="may be repeated (default: all)")


def _run(chosen: argparse.Namespace) -> int:
    plan = load_plan(chosen.file) if chosen.plan is None else plan_of(chosen.plan)
    runtimes = tuple(dict.fromkeys(chosen.runtime or RUNTIMES))
    task = task_of(chosen)
    with progress(chosen, None) as bar:
        bar.at(f"comparing {chosen.file} with the net")
        tried(task)
        own = dict(task.named_inputs)
        found = verify_onnx(chosen.file, compiled(task, plan), task.inputs, kwargs=own, runtimes=runtimes)
    rows = [asdict(row) for row in found.rows]
    say(chosen, {"ok": found.ok, "rows": rows, "problems": found.problems, "notes": found.notes}, str(found))
    return 0 if found.ok else 1


VERIFY = Command(
    "verify",
    "compare an exported file with the net that it was made from, value by value",
    "example: precc verify net.onnx net.py:factory --weights state.pt",
    _add,
    _run,
)
