"""What a command is: its name, its help, and what it does."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Command"]


@dataclass(frozen=True, slots=True)
class Command:
    """One command, in a file of its own; `precc.commands.COMMANDS` lists it.

    Args:
        name: on the command line; ``"plan show"`` is a command of the group ``plan``.
        help: in a line.
        epilog: of its help: an example, ``"example: precc ..."``.
        add: adds its arguments to a parser.
        run: does what the arguments say; the exit code. Errors of ours, of files, and Ctrl-C are the caller's.
        json: whether it prints results, and has ``--json`` for them.
    """

    name: str
    help: str
    epilog: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    json: bool = True
