"""Errors in code of the user's, in one line with the place; ``--traceback`` shows the rest."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from precc.errors import CaptureError, PreccError
from precc.users_code import is_users

__all__ = ["of_users", "one_line", "told"]

#: A line of a traceback that names one of a file.
_PLACE = re.compile(r'File "(.+)", line (\d+)')


@contextmanager
def of_users(what: str) -> Iterator[None]:
    """Errors of a piece of the user's code, which a command calls.

    Args:
        what: it is, such as ``"the forward of LeNet5"``.

    Raises:
        CaptureError: it fails; in one line. Errors of precc are passed on as they are.
    """
    try:
        yield
    except (PreccError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too, and what users derive from BaseException
        raise CaptureError(f"{what} fails: {told(error)} (--traceback shows where)") from error


def one_line(error: BaseException) -> str:
    """What an error says; of the pages that Dynamo writes, what it could not trace, and where."""
    head, *more = str(error).strip().splitlines() or [type(error).__name__]
    why = next((line.split(":", 1)[1].strip() for line in more if line.strip().startswith("Explanation:")), None)
    places = [found for line in more if (found := _PLACE.search(line)) is not None and is_users(found[1])]
    where = f", at {places[-1][1]}:{places[-1][2]}" if places else ""
    return f"{head}{'' if why is None else f': {why}'}{where}"


def told(error: BaseException) -> str:
    """An error in one line, with the last line of the user's that it passed."""
    text = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)]
    return f"{text}, at {own[-1].filename}:{own[-1].lineno}" if own else text
