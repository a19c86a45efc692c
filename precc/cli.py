"""The ``precc`` command."""

import argparse
import sys
import traceback
import warnings
from collections.abc import Sequence

from precc import __version__
from precc.commands.output import alone
from precc.commands.parser import command_parser
from precc.commands.users_errors import one_line
from precc.errors import PreccError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code: 0, 1 after an error of ours, in a file or in the user's code, 2 for wrong usage,
    130 after Ctrl-C.
    """
    chosen = _parsed(arguments)
    code: int = 0
    try:
        with warnings.catch_warnings(), alone(chosen):
            warnings.showwarning = _warn
            code = chosen.command.run(chosen)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has left, as in `precc formats | head`
        return 0
    except (PreccError, OSError) as error:
        if chosen.traceback:
            traceback.print_exception(error)
        print(f"precc: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("precc: interrupted", file=sys.stderr)
        return 130
    return code


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; what is wrong is said with the usage of the command, not with that of them all."""
    chosen, strange = command_parser(__version__).parse_known_args(arguments)
    if strange:
        chosen.parser.error(f"unrecognized arguments: {' '.join(strange)}")
    return chosen


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"precc: {message}", file=sys.stderr)
