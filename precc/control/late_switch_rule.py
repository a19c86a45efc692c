"""When a training is late: after a share of its steps, or when its learning rate has fallen to a share of its peak."""

import math
from dataclasses import dataclass, replace
from typing import Any

from precc.checks import checked_count
from precc.errors import ControllerError

__all__ = ["LateSwitchReading", "LateSwitchRule", "LateSwitchState"]


@dataclass(frozen=True, slots=True)
class LateSwitchReading:
    """How many steps are done, and the learning rate of the last one."""

    steps: int
    lr: float


@dataclass(frozen=True, slots=True)
class LateSwitchState:
    """The highest learning rate so far, and whether the switch was made."""

    peak: float = 0.0
    switched: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LateSwitchRule:
    """One switch: at a share of all steps, or below a share of the peak learning rate.

    Args:
        at: share of the steps that go before.
        total_steps: of the training.
        when_lr_below: share of the peak learning rate, in the place of `total_steps`.

    Raises:
        ControllerError: a share outside (0, 1), no steps, or both conditions or none.

    >>> rule = LateSwitchRule(at=0.9, total_steps=10)
    >>> rule.step(LateSwitchReading(8, 0.1), rule.init())
    (None, LateSwitchState(peak=0.1, switched=False))
    >>> rule.step(LateSwitchReading(9, 0.1), rule.init())
    ('9 of 10 steps are done', LateSwitchState(peak=0.1, switched=True))
    """

    at: float = 0.9
    total_steps: int | None = None
    when_lr_below: float | None = None

    def __post_init__(self) -> None:
        _check_share("at", self.at)
        if (self.total_steps is None) == (self.when_lr_below is None):
            raise ControllerError(
                "late is either at a share of total_steps=, or when_lr_below= a share of the peak learning rate: give "
                f"one of both, not total_steps={self.total_steps!r} and when_lr_below={self.when_lr_below!r}"
            )
        if self.total_steps is not None:
            checked_count("total_steps", self.total_steps, 1)
        if self.when_lr_below is not None:
            _check_share("when_lr_below", self.when_lr_below)

    def init(self) -> LateSwitchState:
        return LateSwitchState()

    def step(self, reading: LateSwitchReading, state: LateSwitchState) -> tuple[str | None, LateSwitchState]:
        """Why to switch now, None if not, and the state after it."""
        state = replace(state, peak=max(state.peak, reading.lr))
        if state.switched:
            return None, state
        why = self._why(reading, state.peak)
        return why, replace(state, switched=why is not None)

    def _why(self, reading: LateSwitchReading, peak: float) -> str | None:
        if self.total_steps is not None:
            late = reading.steps >= math.ceil(self.at * self.total_steps - 1e-9)  # 0.7 * 10 is 7
            return f"{reading.steps} of {self.total_steps} steps are done" if late else None
        if self.when_lr_below is None or reading.lr >= self.when_lr_below * peak:
            return None
        return f"the learning rate {reading.lr:.3g} is below {self.when_lr_below:g} of its peak {peak:.3g}"


def _check_share(name: str, value: Any) -> None:
    if type(value) is not float or not 0 < value < 1:
        raise ControllerError(f"{name} is a share, between 0 and 1, got {value!r}")
