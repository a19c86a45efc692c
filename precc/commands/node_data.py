"""``precc node-data``: numbers for the nodes of an exported file."""

import argparse

from precc.backends.onnx.model_explorer import save_model_explorer_data
from precc.commands.arguments import add_file
from precc.commands.command import Command
from precc.commands.output import say
from precc.commands.places import writable_file

__all__ = ["NODE_DATA"]


def _add(parser: argparse.ArgumentParser) -> None:
    add_file(parser, "file", help="an ONNX file of precc")
    parser.add_argument("--what", default="bits", help="bits, or a fact such as condition (default: bits)")
    add_file(parser, "--out", help="default: <file>.<what>.json")


def _run(chosen: argparse.Namespace) -> int:
    out = str(writable_file(chosen.out or f"{chosen.file}.{chosen.what}.json"))
    save_model_explorer_data(chosen.file, out, chosen.what)
    say(chosen, {"wrote": [out]}, f"wrote {out}")
    return 0


NODE_DATA = Command(
    "node-data",
    "write numbers for the nodes of an exported file, for Model Explorer",
    "example: precc node-data lenet5.onnx --what condition",
    _add,
    _run,
)
