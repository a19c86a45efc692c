"""The command ``precc calibrate``: measure a device, for the cost `Roofline`."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from precc.devices.calibrate import calibrate
from precc.devices.figures import DeviceFigures
from precc.files import require_place

__all__ = ["add_calibrate_command", "figures_table", "run_calibrate_command"]


def add_calibrate_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``calibrate`` to a parser."""
    own = commands.add_parser(
        "calibrate",
        help="measure this machine, for plans that cost the least time on it",
        epilog="example: precc calibrate --out device.json, then "
        "precc plan assign step.precc --gradient 0.05 --cost roofline:device.json",
    )
    own.add_argument("--device", choices=["cpu", "cuda"], help="default: the GPU, if there is one")
    own.add_argument("--out", default="device.json", help="file for the figures (default: device.json)")
    own.add_argument("--seconds", type=float, default=60.0, help="after which no further round begins (default: 60)")


def run_calibrate_command(chosen: argparse.Namespace) -> None:
    """Run what the arguments say."""
    require_place(Path(chosen.out))
    figures = calibrate(chosen.device, seconds=chosen.seconds, progress=True)
    figures.save(chosen.out)
    print(f"{figures.name} ({figures.target})")
    Console().print(figures_table(figures))
    for name, why in figures.missing.items():
        print(f"not measured: {name}: {why}")
    print(f"wrote {chosen.out}")


def figures_table(figures: DeviceFigures) -> Table:
    """The figures, and how far the times that they give are from those that were measured."""
    table = Table("", "figure", "unit", "median error", box=None)
    for own in sorted(figures.rates, key=lambda rate: rate.flops):
        table.add_row(own.name, f"{own.flops / 1e9:,.4g}", "Gflop/s", f"{own.error:.1%}")
    table.add_row("casts and copies", f"{figures.bandwidth / 1e9:,.4g}", "GB/s", f"{figures.bandwidth_error:.1%}")
    table.add_row("smallest kernel", f"{figures.launch * 1e6:,.3g}", "microseconds", "")
    return table
