"""HiGHS without the line that it prints whatever its options say."""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

__all__ = ["quiet_highs"]

#: Left in HiGHS 1.12, which scipy 1.17 has: where a solution in whole numbers breaks a limit by more than 1e-6, and a
#: linear program repairs it (in 1% of our programs). It is C's printf, past ``disp``, with presolve or without it.
_LINE = b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\n"

_STDOUT = 1


@contextmanager
def quiet_highs() -> Iterator[None]:
    """Keep that line from the standard output; what else is written there meanwhile follows at the end.

    No option of HiGHS does it, so the file descriptor leads to a file for the while. Beside other threads, whose output
    and whose forks it would reach, the line is let through.
    """
    if threading.active_count() > 1 or not _is_open():
        yield
        return
    with TemporaryFile() as caught:
        _flush()
        own = os.dup(_STDOUT)
        try:
            os.dup2(caught.fileno(), _STDOUT)
            yield
        finally:
            _flush()
            os.dup2(own, _STDOUT)
            os.close(own)
            caught.seek(0)
            with open(_STDOUT, "wb", closefd=False) as out:
                out.write(caught.read().replace(_LINE, b""))


def _flush() -> None:
    """Write what C keeps back."""
    ctypes.CDLL(None).fflush(None)


def _is_open() -> bool:
    """Whether the process has a standard output."""
    try:
        os.fstat(_STDOUT)
    except OSError:
        return False
    return True
