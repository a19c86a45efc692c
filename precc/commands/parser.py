"""The parser of the command line."""

import argparse

from precc.commands import COMMANDS, GROUPS
from precc.commands.command import Command

__all__ = ["command_parser"]

_CODES = "exit codes: 0; 1 after an error or a finding, such as a file that verify finds wrong; 2 usage; 130 Ctrl-C"


def command_parser(version: str) -> argparse.ArgumentParser:
    """One with all commands; what it parses has the `Command` as ``command``, and its parser as ``parser``."""
    parser = argparse.ArgumentParser(
        prog="precc", description="Number formats for every operation of a PyTorch training step.", epilog=_CODES
    )
    parser.add_argument("--version", action="version", version=f"precc {version}")
    every = parser.add_subparsers(required=True, metavar="COMMAND")
    groups = {}
    for command in COMMANDS.values():
        group, _, name = command.name.rpartition(" ")
        if group and group not in groups:
            own = every.add_parser(group, help=GROUPS[group], description=_sentence(GROUPS[group]))
            groups[group] = own.add_subparsers(required=True, metavar="COMMAND")
        _add(groups[group] if group else every, name, command)
    return parser


def _add(among: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, command: Command) -> None:
    own = among.add_parser(name, help=command.help, description=_sentence(command.help), epilog=command.epilog)
    command.add(own)
    if command.json:
        own.add_argument("--json", action="store_true", help="print the result as one JSON document")
    own.add_argument("--no-color", action="store_true", help="as the variable NO_COLOR does")
    own.add_argument("--traceback", action="store_true", help="show where errors come from")
    own.set_defaults(command=command, parser=own, **({} if command.json else {"json": False}))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
