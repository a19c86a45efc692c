"""How large the values of a tensor are: a histogram of their binary exponents."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Magnitudes"]

_AT_ONCE = 1 << 22  # elements: what is counted takes a few times their memory

#: Exponents of the smallest subnormal number, and how many exponents there are.
_NARROW, _WIDE = (-149, 277), (-1074, 2098)


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """Of a tensor, or of the part of it that this process has.

    Args:
        elements: how many.
        zeros: of them, 0 or -0.
        nonfinite: of them, infinite or NaN.
        lowest: binary exponent ``floor(log2 |x|)`` of the first count.
        counts: of the other values, by exponent; the first and the last are not 0. Empty: there are none.

    >>> Magnitudes.of(torch.tensor([0.0, 0.75, -3.0, 2.0, torch.inf]))
    Magnitudes(elements=5, zeros=1, nonfinite=1, lowest=-1, counts=(1, 0, 2))
    """

    elements: int
    zeros: int
    nonfinite: int
    lowest: int
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: Tensor) -> "Magnitudes":
        """Of real or complex numbers, the parts of complex ones apart; of a sparse tensor of what it stores."""
        flat = _flat(values.detach())
        lowest, many = _WIDE if flat.dtype == torch.float64 else _NARROW
        found = torch.zeros(many, dtype=torch.int64, device=flat.device)
        zeros = nonfinite = torch.zeros((), dtype=torch.int64, device=flat.device)
        for piece in flat.split(_AT_ONCE):
            own = piece if piece.dtype == torch.float64 else piece.float()
            finite, nought = own.isfinite(), own == 0
            nonfinite, zeros = nonfinite + (~finite).sum(), zeros + nought.sum()
            exponents = torch.frexp(own[finite & ~nought]).exponent.long() - 1
            found += torch.bincount(exponents - lowest, minlength=many)
        total, infinite, *counts = torch.cat([zeros[None], nonfinite[None], found]).tolist()
        first, last = _ends(counts)
        return cls(flat.numel(), total, infinite, lowest + first, tuple(counts[first:last]))

    @property
    def edges(self) -> tuple[int, ...]:
        """Of the counts: from each exponent to the next one."""
        return tuple(range(self.lowest, self.lowest + len(self.counts) + 1))


def _flat(values: Tensor) -> Tensor:
    own = values.to_local() if hasattr(values, "to_local") else values  # a DTensor
    own = own.coalesce().values() if own.is_sparse else own
    own = torch.view_as_real(own) if own.is_complex() else own
    return own.reshape(-1)


def _ends(counts: list[int]) -> tuple[int, int]:
    """Where those that are not 0 begin and end."""
    filled = [position for position, count in enumerate(counts) if count]
    return (filled[0], filled[-1] + 1) if filled else (0, 0)
