"""``precc calibrate``: measure a device, for the cost `Roofline`."""

import argparse

from rich.table import Table

from precc.commands.arguments import add_file
from precc.commands.command import Command
from precc.commands.output import say
from precc.commands.places import writable_file
from precc.devices.calibrate import calibrate
from precc.devices.figures import DeviceFigures

__all__ = ["CALIBRATE"]


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the GPU, if there is one")
    add_file(parser, "--out", default="device.json", help="file for the figures (default: device.json)")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which no further round begins (default: 60)")


def _run(chosen: argparse.Namespace) -> int:
    writable_file(chosen.out)
    figures = calibrate(chosen.device, seconds=chosen.seconds, progress=True)
    figures.save(chosen.out)
    lines = [f"not measured: {name}: {why}" for name, why in figures.missing.items()]
    head = f"{figures.name} ({figures.target})"
    say(chosen, {"wrote": [chosen.out], **_document(figures)}, head, _table(figures), *lines, f"wrote {chosen.out}")
    return 0


def _document(figures: DeviceFigures) -> dict[str, object]:
    return {
        "name": figures.name,
        "target": figures.target,
        "rates": [{"name": own.name, "flops": own.flops, "error": own.error} for own in figures.rates],
        "bandwidth": figures.bandwidth,
        "launch": figures.launch,
        "missing": dict(figures.missing),
    }


def _table(figures: DeviceFigures) -> Table:
    """The figures, and how far the times that they give are from those that were measured."""
    table = Table("", "figure", "unit", "median error", box=None)
    for own in sorted(figures.rates, key=lambda rate: rate.flops):
        table.add_row(own.name, f"{own.flops / 1e9:,.4g}", "Gflop/s", f"{own.error:.1%}")
    table.add_row("casts and copies", f"{figures.bandwidth / 1e9:,.4g}", "GB/s", f"{figures.bandwidth_error:.1%}")
    table.add_row("smallest kernel", f"{figures.launch * 1e6:,.3g}", "microseconds", "")
    return table


CALIBRATE = Command(
    "calibrate",
    "measure this machine, for plans that cost the least time on it",
    "example: precc calibrate --out device.json, then "
    "precc plan assign step.precc --gradient 0.05 --cost roofline:device.json",
    _add,
    _run,
)
