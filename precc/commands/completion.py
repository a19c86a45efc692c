"""``precc completion``: what a shell completes of the command line."""

import argparse
from collections.abc import Iterator
from typing import Any

from precc import __version__
from precc.commands.command import Command
from precc.extras import imported

__all__ = ["COMPLETION"]

_SHELLS = ("bash", "zsh", "tcsh")


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=_SHELLS, help="which one")


def _run(chosen: argparse.Namespace) -> int:
    from precc.commands.parser import command_parser  # which knows all commands, this one too

    shtab: Any = imported("shtab", "completion")
    parser = command_parser(__version__)
    kinds = {"file": shtab.FILE, "folder": shtab.DIRECTORY}
    for action in _actions(parser):
        if (own := getattr(action, "completed", None)) is not None:
            action.complete = kinds[own]  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell=chosen.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for own in action.choices.values():
                yield from _actions(own)


COMPLETION = Command(
    "completion",
    "print what makes a shell complete this command's line; needs the extra completion",
    "example: precc completion bash > ~/.local/share/bash-completion/completions/precc",
    _add,
    _run,
    json=False,
)
