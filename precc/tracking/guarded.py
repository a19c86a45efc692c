"""A callback that fails: the user hears of it, and the training goes on."""

import time
from collections.abc import Callable

from precc.tracking.callback import Callback
from precc.warn_caller import warn_caller

__all__ = ["Guarded"]

_LONGEST = 64.0  # seconds without a try


class Guarded:
    """Tells one callback what happens, as long as it takes it.

    The first failure is a `PrecisionWarning` with its error. After a failure the callback is left alone for 1 s,
    then 2, 4, ... 64, so that a server that is gone does not slow the training; what happens meanwhile is lost to
    it, and counted. When the log is closed a second warning says how much was lost. With warnings as errors a
    failure ends the training.

    Args:
        callback: that is told.
        name: in warnings.
        clock: seconds.
    """

    def __init__(self, callback: Callback, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.callback = callback
        self.name = name
        #: What it was told, and how much of it was lost to it.
        self.told = self.lost = 0
        self._clock = clock
        self._pause = self._until = 0.0
        self._error = ""  # the last

    def tell(self, what: Callable[[Callback], None]) -> None:
        """Call a method of it, unless it is left alone."""
        self.told += 1
        if self._clock() < self._until:
            self.lost += 1
            return
        try:
            what(self.callback)
        except Exception as error:  # whatever a tracker raises where its server is gone
            self._failed(error)
        else:
            self._pause = 0.0

    def close(self, *, failed: bool) -> None:
        """The last; warn if anything was lost before."""
        self._until = 0.0
        lost = self.lost
        self.tell(lambda own: own.on_close(failed=failed))
        if lost:
            warn_caller(
                f"{self.name} lacks {lost} of {self.told - 1} rows, figures and reports of the training: the last "
                f"error was {self._error}. All rows are in net.history"
            )

    def _failed(self, error: Exception) -> None:
        self.lost += 1
        first, self._error = not self._error, f"{type(error).__name__}: {error}"
        self._pause = min(_LONGEST, 2 * self._pause or 1.0)
        self._until = self._clock() + self._pause
        if first:
            warn_caller(
                f"{self.name} failed ({self._error}): the training goes on, and it is tried again in "
                f"{self._pause:g} s, then less and less often; what it misses is told when the log is closed"
            )
