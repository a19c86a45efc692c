"""AdaPT's model of cost: multiply-adds and values, weighted with their bits and the share that is not zero.

    forward = sum madds * WL/32 * density / sum madds      (1 in float32)
    size    = sum values * WL/32 * density / sum values

A speed-up by it is that of a machine whose time is proportional to bits, and which skips zeros; no GPU is one. As in
the source the backward counts as much as the forward, and in float32. The source averages the size over layers, not
over values, and adds what its own decisions cost, which is left out here. (Kummer et al. 2021.)
"""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["FixedPointCost", "TensorCost"]

_FULL = 32.0


@dataclass(frozen=True, slots=True)
class TensorCost:
    """Of one weight tensor.

    Args:
        multiply_adds: of the forward products that it is in.
        values: how many it has.
        word: bits of each.
        density: share of them that are not zero.
    """

    multiply_adds: int
    values: int
    word: int
    density: float


@dataclass(frozen=True, slots=True)
class FixedPointCost:
    """Relative to float32.

    >>> cost = FixedPointCost.of([TensorCost(100, 10, 16, 1.0), TensorCost(300, 10, 8, 0.5)])
    >>> cost.forward, cost.size, cost.speedup
    (0.21875, 0.3125, 4.571428571428571)
    """

    forward: float
    size: float

    @classmethod
    def of(cls, tensors: Iterable[TensorCost]) -> "FixedPointCost":
        """The cost of these; 1 where there is no work."""
        every = list(tensors)
        work = _weighted((own.multiply_adds, own) for own in every)
        return cls(work, _weighted((own.values, own) for own in every))

    @property
    def speedup(self) -> float:
        """Of a forward; infinite if all weights are zero."""
        return 1.0 / self.forward if self.forward else float("inf")


def _weighted(pairs: Iterable[tuple[int, TensorCost]]) -> float:
    every = list(pairs)
    total = sum(weight for weight, _ in every)
    return sum(weight * own.word / _FULL * own.density for weight, own in every) / total if total else 1.0
