"""The ``precc`` command."""

import sys
import traceback
import warnings
from collections.abc import Sequence

from precc import __version__
from precc.commands.parser import command_parser
from precc.errors import PreccError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code: 0, 1 after an error of ours, in a file or in the user's code, 2 for wrong usage,
    130 after Ctrl-C.
    """
    chosen = command_parser(__version__).parse_args(arguments)
    code: int = 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = chosen.command.run(chosen)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has left, as in `precc formats | head`
        return 0
    except (PreccError, OSError) as error:
        if chosen.traceback:
            traceback.print_exception(error)
        print(f"precc: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("precc: interrupted", file=sys.stderr)
        return 130
    return code


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"precc: {message}", file=sys.stderr)
