"""By how much a loss is scaled, so that its gradients do not underflow: part of a plan."""

from dataclasses import dataclass
from typing import Any

from precc.errors import PlanError

__all__ = ["LARGEST_SCALE", "LossScaling"]

#: Scales are finite in float32.
LARGEST_SCALE = 2.0**127


@dataclass(frozen=True, slots=True)
class LossScaling:
    """A factor on the loss, taken off the gradients before the optimizer's step.

    Args:
        initial: the factor; of a dynamic one the first.
        dynamic: whether it changes as `torch.amp.GradScaler` does: else it stays. Steps whose gradients are not finite
            are skipped in both cases.
        growth_factor: on the factor after `growth_interval` steps in a row whose gradients were finite.
        backoff_factor: on the factor after a step that was skipped.
        growth_interval: in steps.

    Raises:
        PlanError: a value outside its range.

    >>> print(LossScaling(), LossScaling(65536.0, dynamic=True), sep="; ")
    1024; 65536, times 2 after 2000 steps, times 0.5 after one that is not finite
    """

    initial: float = 1024.0
    dynamic: bool = False
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        for name in ("initial", "growth_factor", "backoff_factor"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        if type(self.dynamic) is not bool:
            raise PlanError(f"loss scaling: dynamic is True or False, not {self.dynamic!r}")
        if type(self.growth_interval) is not int or not 1 <= self.growth_interval < 2**31:
            raise PlanError(f"loss scaling: growth_interval counts steps, at least 1; got {self.growth_interval!r}")
        for name, fits, range_ in (
            ("initial", self.initial > 0, "positive"),
            ("growth_factor", self.growth_factor > 1, "above 1"),
            ("backoff_factor", 0 < self.backoff_factor < 1, "between 0 and 1"),
        ):
            if not fits:
                raise PlanError(f"loss scaling: {name} must be {range_}; got {getattr(self, name)}")

    @classmethod
    def of(cls, choice: "LossScaling | float | None") -> "LossScaling | None":
        """A scaling as it is; a number is one that stays.

        Raises:
            PlanError: neither.
        """
        return choice if choice is None or isinstance(choice, LossScaling) else cls(choice)

    def __str__(self) -> str:
        if not self.dynamic:
            return str(self.initial).removesuffix(".0")
        return (
            f"{str(self.initial).removesuffix('.0')}, times {self.growth_factor:g} after {self.growth_interval} steps, "
            f"times {self.backoff_factor:g} after one that is not finite"
        )


def _number(name: str, value: Any) -> float:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits or not -LARGEST_SCALE < value < LARGEST_SCALE:
        raise PlanError(f"loss scaling: {name} is a number, finite in float32, not {value!r:.40}")
    return float(value)
