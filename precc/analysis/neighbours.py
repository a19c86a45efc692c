"""The two values of a format between which a value lies."""

from dataclasses import replace

import torch
from torch import Tensor

from precc.rounding import RoundingMode, Row
from precc.rounding.tensor_ops import round_elements

__all__ = ["neighbours"]


def neighbours(scaled: Tensor, row: Row) -> tuple[Tensor, Tensor]:
    """The one toward zero and the one away from it, of values in units of their scale; both are a value that is one."""
    between = replace(row, mode=RoundingMode.HYSTERESIS)
    toward, away = (torch.full_like(scaled, flag, dtype=torch.bool) for flag in (False, True))
    return round_elements(scaled, between, away=toward), round_elements(scaled, between, away=away)
