"""Products of a plan in two passes, and how much of them was computed again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock

import torch
from torch import Tensor

from precc.accumulation.kernels import Kernels
from precc.accumulation.two_pass_rule import Choice, Problem, compute
from precc.accumulation.two_passes import TwoPasses
from precc.errors import FormatError
from precc.rounding import slot_number

__all__ = ["Recomputed", "in_two_passes", "recomputed"]


@dataclass(slots=True)
class Recomputed:
    """How many components of products in two passes were computed, and how many of them again.

    Args:
        counts: by number of the accumulator's slot: all multiply-adds, and those of components computed again.
    """

    counts: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)

    def note(self, slot: int, again: Tensor, terms: int) -> None:
        """Add what one product chose, whose components have so many terms."""
        every, high = self.counts.get(slot, (0, 0))
        self.counts[slot] = (every + again.numel() * terms, high + int(again.sum()) * terms)

    @property
    def share(self) -> float:
        """Of all multiply-adds in two passes, that of components computed again; 0 where there were none."""
        every = sum(own for own, _ in self.counts.values())
        return sum(own for _, own in self.counts.values()) / every if every else 0.0

    def of(self, accumulator: str) -> float:
        """Of one product, by the name of its accumulator's slot; 0 where it was not computed."""
        every, high = self.counts.get(slot_number(accumulator), (0, 0))
        return high / every if every else 0.0


_OPEN: list[Recomputed] = []
_LOCK = Lock()


@contextmanager
def recomputed() -> Iterator[Recomputed]:
    """Counts the components that products in two passes compute again while it is open, in all nets and threads.

    >>> import precc
    >>> net = precc.compile(torch.nn.Linear(64, 8), backend="reference")
    >>> net.set_plan(precc.PrecisionPlan("float32", accumulators={
    ...     "product/fprop.accumulator": precc.TwoPasses("e4m3", "e5m10", tau=0.0)}), recompile=True)
    >>> with torch.no_grad(), recomputed() as found:
    ...     y = net(torch.randn(4, 64))
    >>> found.share
    1.0
    """
    found = Recomputed()
    with _LOCK:
        _OPEN.append(found)
    try:
        yield found
    finally:
        with _LOCK:
            _OPEN[:] = [own for own in _OPEN if own is not found]


def in_two_passes(own: TwoPasses, kernels: Kernels, slot: int, problem: Problem) -> Tensor:
    """The product, without the bias, in the dtype of its operands."""
    kind = problem.operands[0].dtype
    carrier = torch.promote_types(kind, torch.float32)
    first, second = (x.to(carrier) for x in problem.operands)
    bias = None if problem.bias is None else problem.bias.to(carrier)
    wide = replace(problem, operands=(first, second), bias=bias)
    chosen = _of_channels(own, wide) if own.channels is not None else None
    choice = Choice.of(own.tau, chosen, own.activation, own.numerator, wide)
    found = compute(wide, own.low, own.high, choice, 0, kernels)
    with _LOCK:
        for counter in _OPEN:
            counter.note(slot, found.recomputed, wide.terms)
    return found.result.to(kind)


def _of_channels(own: TwoPasses, problem: Problem) -> Tensor:
    """Which components are of the channels that are in high precision."""
    shape, channels = problem.shape, own.channels or ()
    count = shape[problem.channel]
    if channels and channels[-1] >= count:
        raise FormatError(f"two passes: there is no channel {channels[-1]}, of a product with {count}")
    mask = torch.zeros(count, dtype=torch.bool, device=problem.operands[0].device)
    mask[list(channels)] = True
    return mask.view(-1, *(1,) * (len(shape) - 1 - problem.channel)).expand(shape).clone()
