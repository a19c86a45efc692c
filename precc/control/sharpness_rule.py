"""The sharpness guard's rule: more precision when the sharpness leaves the band of its last readings upwards.

What counts is the logarithm of the sharpness, whose scale moves over decades in a training. The constants are choices:
that sharpness rises before a loss diverges is reported for few exponent bits (Lee et al. 2024), by how much is not.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from precc.checks import checked_count
from precc.control.running_band import Readings, RunningBand
from precc.errors import ControllerError

__all__ = ["SharpnessDecision", "SharpnessEvent", "SharpnessGuardRule", "SharpnessState"]

#: Least deviation of the logarithm: 1%.
_FLOOR = 0.01


class SharpnessEvent(Enum):
    """What to do after a reading."""

    RAISE = "raise"  #: one level finer
    LOWER = "lower"  #: one level back
    SHARP = "sharp"  #: it should be finer, and there is no level


@dataclass(frozen=True, slots=True)
class SharpnessDecision:
    """An event, and why, in a clause with the numbers."""

    event: SharpnessEvent
    reason: str


@dataclass(frozen=True, slots=True)
class SharpnessState:
    """Of the rule.

    Args:
        level: 0 is the first.
        readings: logarithms, the last ones.
        above: readings above the band, one after the other.
        rest: readings until the next decision may be made.
        calm: readings within the band since the last decision.
    """

    level: int = 0
    readings: Readings = ()
    above: int = 0
    rest: int = 0
    calm: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain data, for checkpoints."""
        return {**asdict(self), "readings": list(self.readings)}

    @classmethod
    def from_json(cls, data: Any) -> "SharpnessState":
        """What `to_json` gave.

        Raises:
            ControllerError: it is no such state.
        """
        names = ("level", "above", "rest", "calm")
        if not isinstance(data, Mapping) or set(data) != {*names, "readings"} or type(data["readings"]) is not list:
            raise ControllerError(f"the state of a sharpness rule has {', '.join(names)} and readings: {data!r:.60}")
        if not all(type(own) is float and math.isfinite(own) for own in data["readings"]):
            raise ControllerError(f"the state has readings that are no finite numbers: {data['readings']!r:.60}")
        counts = {name: checked_count(name, data[name], 0) for name in names}
        return cls(readings=tuple(data["readings"]), **counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharpnessGuardRule:
    """The constants; ``step`` is the whole rule.

    Args:
        levels: how many there are.
        band: deviations above the mean of the last readings that are too many.
        patience: readings in a row that must be.
        window: readings that make the band.
        warmup: readings before there is one.
        cooldown: readings after a decision until the next.
        calm: readings within the band after which it goes one level back; None: it never does.

    Raises:
        ControllerError: a number outside its range.

    >>> rule = SharpnessGuardRule(levels=2, patience=1, window=4, warmup=2)
    >>> state = rule.init()
    >>> for sharpness in (1.0, 1.01, 2.0):
    ...     decision, state = rule.step(sharpness, state)
    >>> decision.event, state.level
    (<SharpnessEvent.RAISE: 'raise'>, 1)
    """

    levels: int
    band: float = 3.0
    patience: int = 3
    window: int = 50
    warmup: int = 10
    cooldown: int = 10
    calm: int | None = None

    def __post_init__(self) -> None:
        checked_count("the number of levels", self.levels, 1)
        checked_count("patience", self.patience, 1)
        checked_count("cooldown", self.cooldown, 0)
        if self.calm is not None:
            checked_count("calm", self.calm, 1)
        self._band()

    def _band(self) -> RunningBand:
        return RunningBand(width=self.band, window=self.window, warmup=self.warmup, floor=_FLOOR)

    def init(self) -> SharpnessState:
        return SharpnessState()

    def step(self, sharpness: float, state: SharpnessState) -> tuple[SharpnessDecision | None, SharpnessState]:
        """The decision after a reading, if there is one, and the state after it.

        One that is not finite is acted on at once, also in the cool-down; one of 0 is below any band, and in none.
        """
        if not math.isfinite(sharpness):
            return self._finer(f"the sharpness is {sharpness}", state)
        logarithm = math.log(sharpness) if sharpness > 0 else None
        deviations = None if logarithm is None else self._band().deviations(logarithm, state.readings)
        readings = state.readings if logarithm is None else self._band().enter(logarithm, state.readings)
        high = deviations is not None and deviations > self.band
        above, calm = (state.above + 1, 0) if high else (0, state.calm + 1)
        after = replace(state, readings=readings, above=above, calm=calm, rest=max(state.rest - 1, 0))
        if state.rest:
            return None, after
        if above >= self.patience:
            where = f"sharpness {sharpness:.3g}% is {deviations:.3g} deviations above those before"
            return self._finer(f"{where}, the last {above} by more than {self.band:g}", after)
        if self.calm is not None and calm >= self.calm and state.level:
            back = replace(after, level=state.level - 1, calm=0, rest=self.cooldown)
            reason = f"the sharpness was within its band {calm} times"
            return SharpnessDecision(SharpnessEvent.LOWER, reason), back
        return None, after

    def _finer(self, reason: str, state: SharpnessState) -> tuple[SharpnessDecision, SharpnessState]:
        after = replace(state, above=0, calm=0, rest=self.cooldown)
        if state.level + 1 < self.levels:
            return SharpnessDecision(SharpnessEvent.RAISE, reason), replace(after, level=state.level + 1)
        return SharpnessDecision(SharpnessEvent.SHARP, f"{reason}, and there is no finer level"), after
