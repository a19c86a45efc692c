"""When a training is late: after a share of its steps, or when its learning rate has fallen to a share of its peak."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from precc.checks import checked_count
from precc.errors import ControllerError

__all__ = ["LateSwitchReading", "LateSwitchRule", "LateSwitchState"]


#: Share of the steps that go before, by default.
_AT = 0.9


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

    def to_json(self) -> dict[str, Any]:
        """As plain data, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> "LateSwitchState":
        """What `to_json` gave.

        Raises:
            ControllerError: it is no such state.
        """
        if not isinstance(data, Mapping) or set(data) != {"peak", "switched"}:
            raise ControllerError(f"a state of LateSwitch has peak and switched, unlike {data!r:.60}")
        if type(data["peak"]) is not float or not math.isfinite(data["peak"]) or type(data["switched"]) is not bool:
            raise ControllerError(f"the peak is a number, and switched is True or False, not {dict(data)!r:.60}")
        return cls(**data)


@dataclass(frozen=True, slots=True, kw_only=True)
class LateSwitchRule:
    """One switch: at a share of all steps, or below a share of the peak learning rate.

    Args:
        at: share of the steps that go before; None: 0.9.
        total_steps: of the training.
        when_lr_below: share of the peak learning rate, in the place of `total_steps`.

    Raises:
        ControllerError: a share outside (0, 1), no steps, both conditions or none, or `at` without `total_steps`.

    >>> rule = LateSwitchRule(at=0.9, total_steps=10)
    >>> rule.step(LateSwitchReading(8, 0.1), rule.init())
    (None, LateSwitchState(peak=0.1, switched=False))
    >>> rule.step(LateSwitchReading(9, 0.1), rule.init())
    ('9 of 10 steps are done', LateSwitchState(peak=0.1, switched=True))
    """

    at: float | None = None
    total_steps: int | None = None
    when_lr_below: float | None = None

    def __post_init__(self) -> None:
        if (self.total_steps is None) == (self.when_lr_below is None):
            raise ControllerError(
                "late is either at a share of total_steps=, or when_lr_below= a share of the peak learning rate: give "
                f"one of both, not total_steps={self.total_steps!r} and when_lr_below={self.when_lr_below!r}"
            )
        if self.total_steps is not None:
            checked_count("total_steps", self.total_steps, 1)
        for name, share in (("at", self.at), ("when_lr_below", self.when_lr_below)):
            if share is not None:
                _check_share(name, share)
        if self.at is not None and self.when_lr_below is not None:
            raise ControllerError(
                f"at={self.at} is a share of total_steps, and means nothing beside when_lr_below={self.when_lr_below}: "
                "leave one of both out"
            )

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
            late = reading.steps >= math.ceil((self.at or _AT) * self.total_steps - 1e-9)  # 0.7 * 10 is 7
            return f"{reading.steps} of {self.total_steps} steps are done" if late else None
        if self.when_lr_below is not None and reading.lr < self.when_lr_below * peak:
            return f"the learning rate {reading.lr:.3g} is below {self.when_lr_below:g} of its peak {peak:.3g}"
        return None


def _check_share(name: str, value: Any) -> None:
    if type(value) is not float or not 0 < value < 1:
        raise ControllerError(f"{name} is a share, between 0 and 1, got {value!r}")
