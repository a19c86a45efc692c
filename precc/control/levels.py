"""Levels of arithmetic: plans, coarsest first."""

from collections.abc import Sequence
from typing import Any

from precc.errors import ControllerError
from precc.plan import PrecisionPlan
from precc.policy import Policy, Uniform, assigned, parse_policy

__all__ = ["DEFAULT_LEVELS", "Level", "plans_of"]

Level = PrecisionPlan | Policy | str

DEFAULT_LEVELS: tuple[Level, ...] = (Uniform("e4m3"), Uniform("e5m10"), Uniform("float32"))


def plans_of(levels: Any) -> tuple[PrecisionPlan, ...]:
    """The plans of levels.

    Raises:
        ControllerError: not a sequence.
        PlanError, FormatError: one of them is no level.
    """
    if isinstance(levels, (str, PrecisionPlan)) or not isinstance(levels, Sequence):
        raise ControllerError(f"levels is a sequence of plans, policies or format names, not {levels!r}")
    return tuple(level if isinstance(level, PrecisionPlan) else assigned(parse_policy(level)) for level in levels)
