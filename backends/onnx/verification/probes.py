"""Values at which a rounding shows: what any other format, mode, scale or a rounding left out would give otherwise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from precc.rounding import Row, quantize

__all__ = ["ProbeLimits", "one_hot", "probe_values", "probes_like", "with_special"]

#: At most so many exponents of a grid are probed: all of a small format, and both ends of a large one.
_EXPONENTS = 24

#: Beyond every grid that float32 values see.


@dataclass(frozen=True, slots=True)
class ProbeLimits:
    """What a file or a runtime is known not to round as precc does.

    Args:
        magnitude: values from here on; if it is infinite, all are as precc's.
        nan: False: NaN.
    """

    magnitude: float = math.inf
    nan: bool = True


_EVERYTHING = ProbeLimits()


@lru_cache
def probe_values(row: Row, *, finite: bool) -> Tensor:
    """Values in units of the scale: grid points, ties, their neighbours, subnormals, both ends and what lies beyond.

    Args:
        row: of the slot.
        finite: leave out NaN, infinities, and what overflows to them.

    >>> from precc.precision import Precision
    >>> values = probe_values(Precision("e4m3").row(), finite=True)
    >>> {1.0625, 448.0, 464.0, 2.0**-10, -464.0} <= set(values.tolist())
    True
    """
    grid = row.grid
    points = torch.tensor([*_steps(row), *_ends(grid.high), *_ends(grid.low)], dtype=torch.float64)
    points = points[points.abs() < 3e38].float()
    near = [points, points.nextafter(torch.tensor(math.inf)), points.nextafter(torch.tensor(-math.inf))]
    random = torch.randn(256, generator=torch.Generator().manual_seed(1))
    values = torch.cat([*near, random, random * 2.0 ** min(grid.emin, 60) if grid.emin > -60 else random / 64])
    values = torch.cat([values, -values, torch.tensor([0.0, -0.0])])
    if not finite:
        return torch.cat([values, torch.tensor([math.nan, math.inf, -math.inf])])
    whole = values.isfinite() & (values.abs() < 1e30)
    if row.granularity is None:
        whole &= quantize(values, row).isfinite()
    return values[whole]


def _steps(row: Row) -> list[float]:
    """Points of the grid and the middles between them, at each of some exponents."""
    grid = row.grid
    m, quantum = min(grid.mantissa_bits, 23), 2.0 ** max(grid.k_min, -149)
    found = [quantum * quarters / 4 for quarters in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 20, 22, 26)]
    if grid.has_one_quantum:
        top = max(int(min(grid.high, 2.0**100) / quantum), 1)
        steps = {*range(min(top, 64)), *(top // n for n in range(1, 9)), *(top - n for n in range(min(top, 8)))}
        return [*found, *(quantum * (step + half) for step in steps for half in (0.0, 0.5))]
    sample = {point % 2**m for point in (*range(8), 2**m // 2, 2**m // 3, -2, -1)}
    for exponent in _exponents(grid.emin, grid.high):
        step = 2.0 ** max(exponent - m, grid.k_min)
        found += [2.0**exponent + step * (point + half) for point in sample for half in (0.0, 0.5, 0.25, 0.75)]
    return found


def _exponents(emin: int, high: float) -> Sequence[int]:
    first, last = max(emin, -126), math.frexp(min(high, 2.0**126))[1] - 1
    every = range(first, last + 1)
    if len(every) <= _EXPONENTS:
        return every
    middle = range(max(first, -4), min(last, 4))
    return [*every[:4], *middle, *every[-4:]]


def _ends(bound: float) -> list[float]:
    if not 0 < abs(bound) < 1e38:
        return [1.0, 1e4, 1e20]
    return [bound * factor for factor in (0.99, 1.0, 1.01, 1.03125, 1.0625, 1.125, 1.25, 1.5, 2.0, 3.0, 100.0)]


def probes_like(
    shape: Sequence[int], row: Row, *, finite: bool, start: int = 0, limits: ProbeLimits = _EVERYTHING
) -> Tensor:
    """A tensor of probe values: their sequence from `start` on, again and again; scaled ones at many scales.

    Args:
        shape: of the tensor.
        row: of the slot.
        finite: as in `probe_values`; of scaled values none are NaN or infinite either way.
        start: how many values earlier tensors have had.
        limits: what is left out.
    """
    values = probe_values(row, finite=finite)
    generator = torch.Generator().manual_seed(2)
    values = values[torch.randperm(len(values), generator=generator)]
    count = math.prod(shape)
    filled = values[(torch.arange(count) + start) % len(values)].reshape(*shape)
    filled = filled if row.granularity is None else _rescaled(filled, row, start)
    beyond = (filled.abs() >= limits.magnitude) & math.isfinite(limits.magnitude)
    left_out = beyond | filled.isnan() & (not limits.nan)
    return torch.where(left_out, 1.0, filled)


def _rescaled(values: Tensor, row: Row, seed: int) -> Tensor:
    """Values of every size in one group, then in others: the largest of a group is now on the grid, now beyond it."""
    generator = torch.Generator().manual_seed(seed)
    values = values.nan_to_num(1.0, row.scale.element_high, -row.scale.element_high)
    values = values.clamp(-2 * row.scale.element_high, 2 * row.scale.element_high)
    for dim, size in enumerate(values.shape):
        own = [size if other == dim else 1 for other in range(values.dim())]
        exponents = torch.randint(-4, 5, own, generator=generator)
        uneven = 1 + 0.7 * torch.rand(own, generator=generator) * (torch.rand(own, generator=generator) < 0.3)
        values = values * torch.ldexp(torch.ones(own), exponents) * uneven
    keep = torch.rand(values.shape[:1], generator=generator) > 0.1  # some groups are all zeros
    return values * keep.reshape(-1, *[1] * (values.dim() - 1)) if len(keep) > 3 else values


def with_special(values: Tensor, special: float) -> Tensor:
    """The same with a NaN or an infinity in the middle."""
    flat = values.flatten().clone()
    flat[len(flat) // 2 : len(flat) // 2 + 1] = special
    return flat.reshape(values.shape)


def one_hot(shape: Sequence[int], kept: Sequence[int], shift: int = 0) -> Tensor:
    """Ones and zeros: a single one at each index of the dimensions `kept`, at changing places of the others.

    >>> one_hot([3, 2], kept=[0])
    tensor([[1., 0.],
            [0., 1.],
            [1., 0.]])
    """
    others = [dim for dim in range(len(shape)) if dim not in kept]
    rows = math.prod(shape[dim] for dim in kept)
    columns = math.prod(shape[dim] for dim in others)
    ones = torch.zeros(rows, columns)
    if rows and columns:
        ones[torch.arange(rows), (torch.arange(rows) + shift) % columns] = 1.0
    order = [*kept, *others]
    back = [order.index(dim) for dim in range(len(shape))]
    return ones.reshape([shape[dim] for dim in order]).permute(back).contiguous()
