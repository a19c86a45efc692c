"""The commands of ``precc``, one a file: a new one is listed here, and its common tests come from `COMMANDS`."""

from collections.abc import Mapping

from precc.commands import (
    bench,
    calibrate,
    compare,
    completion,
    demo,
    explain,
    export,
    formats,
    kernels,
    node_data,
    ops,
    plan,
    report,
    train,
    verify,
)
from precc.commands.command import Command

__all__ = ["COMMANDS", "GROUPS"]

_EVERY = (
    demo.DEMO,
    train.TRAIN,
    report.REPORT,
    compare.COMPARE,
    explain.EXPLAIN,
    bench.BENCH,
    *plan.PLAN,
    calibrate.CALIBRATE,
    export.EXPORT,
    verify.VERIFY,
    kernels.KERNELS,
    node_data.NODE_DATA,
    formats.FORMATS_COMMAND,
    ops.OPS,
    completion.COMPLETION,
)

#: By name.
COMMANDS: Mapping[str, Command] = {own.name: own for own in _EVERY}

#: Help of the groups, whose commands have names of two words.
GROUPS: Mapping[str, str] = {"plan": "show, compare and choose plans, from files"}
