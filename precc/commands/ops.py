"""``precc ops``: what operators are to precc."""

import argparse

from precc.commands.command import Command
from precc.commands.output import say
from precc.passes.op_classes import OP_CLASSES
from precc.passes.op_table import op_table

__all__ = ["OPS"]


def _add(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def _run(chosen: argparse.Namespace) -> int:
    rows = [{"name": own.name, "class": own.kind.value, "reason": own.reason} for own in OP_CLASSES.values()]
    say(chosen, {"operators": rows}, op_table())
    return 0


OPS = Command(
    "ops",
    "list the classes of operators: product, elementwise, reduction, exact, kept",
    "example: precc ops | grep aten.mm",
    _add,
    _run,
)
