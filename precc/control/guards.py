"""Guards: does a training go on as it did, or is its loss or gradient not finite, or its loss diverging?

A loss diverges when it is above the running band of the losses before it (`precc.control.running_band`), by `band`
deviations in `patience` consecutive readings, or by `spike` deviations in one. The constants are choices: independent
normal losses pass the default band about once in 1e14 readings, and real ones have heavier tails. A rise that the
window follows is none: a straight line through all of it ends only sqrt(3) deviations above its mean.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from precc.checks import checked_count, checked_positive
from precc.control.running_band import Readings, RunningBand
from precc.errors import ControllerError

__all__ = ["Alarm", "GuardEvent", "GuardReading", "GuardState", "Guards"]


class GuardEvent(Enum):
    """What a guard found."""

    NONFINITE_LOSS = "nonfinite_loss"
    NONFINITE_GRADIENT = "nonfinite_gradient"
    SPIKE = "spike"  #: one loss far above the band
    DIVERGENCE = "divergence"  #: several losses above it, one after the other


@dataclass(frozen=True, slots=True)
class Alarm:
    """An event, and why, in a clause with the numbers."""

    event: GuardEvent
    reason: str


@dataclass(frozen=True, slots=True)
class GuardReading:
    """Of one step.

    Args:
        loss: of its batch.
        gradient_norm: in any norm that is not finite where an entry is not; None if it is not known.
    """

    loss: float
    gradient_norm: float | None = None


@dataclass(frozen=True, slots=True)
class GuardState:
    """The last losses, in the units of the band, and how many of them in a row were above it."""

    losses: Readings = ()
    above: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain data, for checkpoints."""
        return {**asdict(self), "losses": list(self.losses)}

    @classmethod
    def from_json(cls, data: Any) -> "GuardState":
        """What `to_json` gave.

        Raises:
            ControllerError: it is no such state.
        """
        if not isinstance(data, Mapping) or set(data) != {"losses", "above"} or not isinstance(data["losses"], list):
            raise ControllerError(f"the state of guards has losses and above, unlike {data!r:.60}")
        if not all(type(own) in (int, float) and math.isfinite(own) for own in data["losses"]):
            raise ControllerError(f"the state of guards has losses that are no finite numbers: {data['losses']!r:.60}")
        return cls(tuple(map(float, data["losses"])), checked_count("above", data["above"], 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """The constants; ``step`` is the whole rule.

    Args:
        band: deviations above the mean of the last losses that are too many in `patience` consecutive readings.
        patience: readings.
        spike: deviations that are too many in one reading, more than `band`.
        window: losses that make the band.
        warmup: losses before there is one; until then only what is not finite is an event.
        log: measure in the logarithm of the loss, for losses that fall over decades; they are then not negative.
        floor: least deviation, in units of the mean loss (in log units: of 1): so a constant loss has a band too.

    Raises:
        ControllerError: a number outside its range.

    >>> guards = Guards(band=2.0, patience=2, spike=5.0, window=4, warmup=2)
    >>> state = guards.init()
    >>> for loss in (1.0, 3.0, 4.5, 5.0):  # 2 +- 1, then 2.83 +- 1.43 with what is above cut to 4
    ...     alarm, state = guards.step(GuardReading(loss), state)
    >>> alarm, state.above
    (None, 0)
    >>> guards.step(GuardReading(float("nan")), state)[0].event
    <GuardEvent.NONFINITE_LOSS: 'nonfinite_loss'>
    """

    band: float = 3.0
    patience: int = 5
    spike: float = 10.0
    window: int = 50
    warmup: int = 20
    log: bool = False
    floor: float = 1e-3

    def __post_init__(self) -> None:
        if type(self.log) is not bool:
            raise ControllerError(f"log is True or False, got {self.log!r}")
        checked_count("patience", self.patience, 1)
        if checked_positive("spike", self.spike) <= checked_positive("band", self.band):
            raise ControllerError(f"a spike is more than the band, got spike={self.spike} and band={self.band}")
        self._band()

    def _band(self) -> RunningBand:
        floors = {"floor" if self.log else "relative_floor": self.floor}
        return RunningBand(width=self.band, window=self.window, warmup=self.warmup, **floors)

    def init(self) -> GuardState:
        return GuardState()

    def step(self, reading: GuardReading, state: GuardState) -> tuple[Alarm | None, GuardState]:
        """What is wrong with a reading, if anything, and the state after it.

        What is not finite leaves the state as it was. After an event the count of losses above the band begins again.

        Raises:
            ControllerError: the loss is negative, and its logarithm is asked for.
        """
        if not math.isfinite(reading.loss):
            return Alarm(GuardEvent.NONFINITE_LOSS, f"the loss is {reading.loss}"), state
        if reading.gradient_norm is not None and not math.isfinite(reading.gradient_norm):
            return Alarm(GuardEvent.NONFINITE_GRADIENT, f"the gradient's norm is {reading.gradient_norm}"), state
        value = self._in_units(reading.loss)
        if value is None:
            return None, replace(state, above=0)
        alarm, above = self._judged(reading.loss, self._band().deviations(value, state.losses), state.above)
        return alarm, GuardState(self._band().enter(value, state.losses), above)

    def _judged(self, loss: float, deviations: float | None, above: int) -> tuple[Alarm | None, int]:
        if deviations is None or deviations <= self.band:
            return None, 0
        where = f"the loss {loss:.6g} is {deviations:.3g} deviations above those before"
        if deviations > self.spike:
            return Alarm(GuardEvent.SPIKE, f"{where}, more than {self.spike:g}"), 0
        if above + 1 < self.patience:
            return None, above + 1
        reason = f"{where}, the {self.patience} last ones more than {self.band:g}"
        return Alarm(GuardEvent.DIVERGENCE, reason), 0

    def _in_units(self, loss: float) -> float | None:
        """None: a loss of 0 in log units, which is below any band, and in none."""
        if not self.log:
            return loss
        if loss < 0:
            raise ControllerError(f"a loss of {loss:g} has no logarithm: use Guards(log=False)")
        return math.log(loss) if loss else None
