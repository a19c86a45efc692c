"""What measurements say of predictions: their ratio in each group of slots, as a running record.

A group is the slots of one operand of one role, such as ``fprop.weight``. The record is the mean of the logarithms of
measured over predicted deviations; errors of the group are multiplied by its exponential. Sums are not corrected.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from precc.errors import PlanError

__all__ = ["Calibration", "Correction", "group_of"]

#: Measurements that the running mean remembers.
_MEMORY = 10

#: A ratio beyond this, or below its inverse, says that the step is no step to calibrate by.
_MOST = 30.0


def group_of(slot: str) -> str:
    """The group of a slot by its name."""
    return slot.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Correction:
    """Measured over predicted, of the deviation of the loss and of the norm of the gradient's error; 1 if not known."""

    loss: float = 1.0
    gradient: float = 1.0


@dataclass(slots=True)
class _Ratio:
    """A running mean of logarithms."""

    count: int = 0
    mean: float = 0.0

    def note(self, ratio: float) -> None:
        self.count += 1
        self.mean += (math.log(ratio) - self.mean) / min(self.count, _MEMORY)


@dataclass(slots=True)
class Calibration:
    """The record of a net; empty until something is measured.

    >>> record = Calibration()
    >>> record.note("fprop.weight", loss=2.0, gradient=None)
    >>> record.of("fc/product/fprop.weight")
    Correction(loss=2.0, gradient=1.0)
    """

    _ratios: dict[str, dict[str, _Ratio]] = field(default_factory=dict)

    def note(self, group: str, *, loss: float | None, gradient: float | None) -> None:
        """Add a measurement: measured over predicted, None where neither is defined.

        Ratios beyond 30, as of a net that fits its batch to the last digit, are left out.
        """
        own = self._ratios.setdefault(group, {})
        for name, ratio in (("loss", loss), ("gradient", gradient)):
            if ratio is not None and 1 / _MOST <= ratio <= _MOST:
                own.setdefault(name, _Ratio()).note(ratio)

    def of(self, slot: str) -> Correction:
        """For a slot by its name."""
        own = self._ratios.get(group_of(slot))
        return Correction(**{name: math.exp(ratio.mean) for name, ratio in own.items()}) if own else Correction()

    @property
    def state(self) -> tuple[tuple[str, str, int, float], ...]:
        """All of it, hashable."""
        return tuple(
            (group, name, ratio.count, ratio.mean) for group, own in self._ratios.items() for name, ratio in own.items()
        )

    def counts(self) -> dict[str, int]:
        """How often each group was measured."""
        return {group: max(ratio.count for ratio in own.values()) for group, own in self._ratios.items() if own}

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            group: {name: {"count": ratio.count, "log_ratio": ratio.mean} for name, ratio in own.items()}
            for group, own in self._ratios.items()
        }

    def load(self, other: "Calibration") -> None:
        """Go on with another record."""
        self._ratios = other._ratios

    @classmethod
    def from_json(cls, data: Any) -> "Calibration":
        """The record that `to_json` wrote.

        Raises:
            PlanError: it is none.
        """
        try:
            strange = {name for own in data.values() for name in own} - {"loss", "gradient"}
            if strange:
                raise ValueError(strange)
            return cls({group: {name: _ratio(own[name]) for name in own} for group, own in data.items()})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PlanError(f"the precision_state has a calibration that is none: {data!r:.80}") from error


def _ratio(data: Mapping[str, Any]) -> _Ratio:
    count, mean = data["count"], data["log_ratio"]
    if type(count) is not int or count < 1 or type(mean) is not float or not abs(mean) <= math.log(_MOST):
        raise ValueError(data)
    return _Ratio(count, mean)
