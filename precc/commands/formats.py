"""``precc formats``: the named formats."""

import argparse
from collections.abc import Iterator
from typing import Any

from precc.commands.command import Command
from precc.commands.output import say
from precc.formats import ALIASES, FAMILIES, FORMATS, BlockFormat, FixedPoint, FloatFormat, Format
from precc.report.format_table import format_table

__all__ = ["FORMATS_COMMAND"]


def _add(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def _run(chosen: argparse.Namespace) -> int:
    families = {name: meaning for name, (meaning, _, _) in FAMILIES.items()}
    say(chosen, {"formats": list(_facts()), "families": families}, format_table())
    return 0


def _facts() -> Iterator[dict[str, Any]]:
    for name, own in FORMATS.items():
        short = [alias for alias, meant in ALIASES.items() if meant == name]
        yield {"name": name, "aliases": short, "bits": own.bits, **_range(own)}


def _range(own: Format) -> dict[str, Any]:
    """Of single values; a block format has that of its elements."""
    element = own.element if isinstance(own, BlockFormat) else own
    found = {"lowest": element.low, "max": element.max}
    if isinstance(element, FixedPoint):
        return {**found, "quantum": element.quantum}
    if isinstance(element, FloatFormat):
        least = {"min_normal": element.smallest_normal, "unit_roundoff": element.unit_roundoff}
        below = element.mantissa_bits > 0 and element.subnormals
        return {**found, **least, "min_subnormal": element.smallest_subnormal if below else None}
    return found


FORMATS_COMMAND = Command(
    "formats", "list the named formats", "example: precc formats; as JSON: precc formats --json", _add, _run
)
