"""Errors in code of the user's, in one line with the place; ``--traceback`` shows the rest."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from precc.errors import CaptureError, PreccError
from precc.users_code import is_users

__all__ = ["of_users", "told"]


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
    except PreccError:
        raise
    except (Exception, SystemExit) as error:
        raise CaptureError(f"{what} fails: {told(error)} (--traceback shows where)") from error


def told(error: BaseException) -> str:
    """An error in one line, with the last line of the user's that it passed."""
    text = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)]
    return f"{text}, at {own[-1].filename}:{own[-1].lineno}" if own else text
