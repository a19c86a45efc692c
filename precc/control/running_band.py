"""A band around the last readings of something noisy: how far above its usual values is a new one?

``z = (v - mean) / max(deviation, floor)`` over a window of the readings before it. What lies above the band enters the
window as the band's upper end: one outlier does not widen it much, and a lasting rise is learnt in the end.
"""

import math
from dataclasses import dataclass

from precc.checks import checked_count, checked_positive
from precc.errors import ControllerError

__all__ = ["Readings", "RunningBand"]

Readings = tuple[float, ...]  #: the last ones, oldest first


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningBand:
    """Mean and deviation over the last readings.

    Args:
        width: upper end, in deviations above the mean.
        window: readings that count.
        warmup: readings before the band says anything, at least 2.
        floor: least deviation, in the unit of the readings.
        relative_floor: likewise, in units of the mean's magnitude.

    Raises:
        ControllerError: a number outside its range, or a warm-up longer than the window.

    >>> band = RunningBand(width=3.0, window=4, warmup=2)
    >>> band.deviations(5.0, (1.0, 3.0)), band.deviations(5.0, (1.0,)), band.enter(9.0, (1.0, 3.0))
    (3.0, None, (1.0, 3.0, 5.0))
    """

    width: float
    window: int
    warmup: int
    floor: float = 0.0
    relative_floor: float = 0.0

    def __post_init__(self) -> None:
        checked_positive("the width of the band, in deviations,", self.width)
        if checked_count("warmup", self.warmup, 2) > checked_count("window", self.window, 2):
            raise ControllerError(f"a warm-up of {self.warmup} readings does not fit into a window of {self.window}")
        for name, own in (("floor", self.floor), ("relative_floor", self.relative_floor)):
            if not 0 <= own < math.inf:
                raise ControllerError(f"{name} of a deviation is finite and not negative, got {own!r}")

    def moments(self, readings: Readings) -> tuple[float, float]:
        """Mean and deviation (divided by n), the floors applied."""
        count = len(readings)
        mean = math.fsum(own / count for own in readings)
        deviation = math.hypot(*(own - mean for own in readings)) / math.sqrt(count)
        return mean, max(deviation, self.floor, self.relative_floor * abs(mean))

    def deviations(self, value: float, readings: Readings) -> float | None:
        """How many deviations a value is above the mean; None before the warm-up ends."""
        if len(readings) < self.warmup:
            return None
        mean, deviation = self.moments(readings)
        if deviation == 0.0:
            return 0.0 if value == mean else math.copysign(math.inf, value - mean)
        return (value - mean) / deviation

    def enter(self, value: float, readings: Readings) -> Readings:
        """The readings with a new one, cut to the band's upper end and the window."""
        if len(readings) >= self.warmup:
            mean, deviation = self.moments(readings)
            value = min(value, mean + self.width * deviation)
        return (*readings, value)[-self.window :]
