"""The ranges of the values at every slot of a step, and how many of them each precision loses.

One run of the step. What a slot reads is counted once for all slots that read the same values; only precisions with
scales along a dimension are looked at slot by slot. No tensor is rounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.magnitude_counts import TENSOR_OPS, Counting, MagnitudeCounts, stored
from precc.analysis.range_losses import BlockLosses, RangeCandidate, WholeLosses, candidate_of
from precc.analysis.slot_sites import SlotSite, sites_of
from precc.analysis.step_runs import StepRunner, Values, unrounded
from precc.analysis.traced_step import TracedStep
from precc.analysis.value_range import RangeLosses, ValueRange
from precc.annotations import products_of
from precc.formats import Format
from precc.passes.nonfinite import tensors_in
from precc.precision import Precision

__all__ = ["DEFAULT_CANDIDATES", "USUAL_CANDIDATES", "RangeWatcher", "ValueRanges"]

_SMALL = ("e2m1", "e2m3", "e3m2", "e3m4", "e4m3", "e5m2", "e4m5", "e5m4")

#: Single values unscaled, and those under 16 bits also with a scale for the tensor.
USUAL_CANDIDATES: tuple[Precision, ...] = (
    *(Precision(name) for name in (*_SMALL, "float16", "bfloat16")),
    *(Precision(name, scaling="tensor") for name in _SMALL),
)

#: With blocks beside them, which cost a few passes a slot each.
DEFAULT_CANDIDATES = (*USUAL_CANDIDATES, *(Precision(name) for name in ("mxfp8", "mxfp4", "nvfp4")))


@dataclass(frozen=True, slots=True)
class ValueRanges:
    """Find the range of the values at each slot and of each product's result.

    A result, at the slot of the running sum, is that of the tensors' own arithmetic, not of the sums on the way to it;
    it has no scales, so that only candidates without any are looked at.

    Args:
        candidates: precisions whose losses are counted; a format means that format, unscaled, to nearest even.
        counting: by what.

    Raises:
        UnsupportedError: a candidate has a transform.
    """

    candidates: Sequence[Precision | Format | str] = DEFAULT_CANDIDATES
    counting: Counting = TENSOR_OPS

    name: ClassVar[str] = "value_range"

    def run(self, step: TracedStep) -> dict[str, ValueRange]:
        """The ranges by name of the slot."""
        watcher = self.watcher(step)
        with torch.no_grad():
            StepRunner(step).run(unrounded, watch=watcher.watch)
        return watcher.result()

    def watcher(self, step: TracedStep) -> "RangeWatcher":
        """What looks on while the step runs."""
        every = dict.fromkeys(Precision.of(choice) for choice in self.candidates)
        return RangeWatcher(step, tuple(map(candidate_of, every)), self.counting)


@dataclass(eq=False)
class RangeWatcher:
    """Counts values while a step runs; it changes none, and draws no random number.

    Args:
        step: the step.
        candidates: precisions whose losses are counted.
        counting: by what.
    """

    step: TracedStep
    candidates: tuple[RangeCandidate, ...]
    counting: Counting
    _found: dict[str, ValueRange] = field(init=False, default_factory=dict)
    _by_origin: dict[Node, ValueRange] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._sites: dict[Node, SlotSite] = {site.node: site for site in sites_of(self.step)}
        every = products_of(self.step.graph.graph)
        self._sums = {node: product.accumulators for node, product in every if product.accumulators}
        self._whole_losses = WholeLosses([one for one in self.candidates if one.by_tensor])
        positions = self._whole_losses.positions
        self._plain = {own: position for own, position in positions.items() if own.granularity is None}
        # small blocks first: the largest magnitudes of others are found from theirs
        scaled = (one for one in self.candidates if not one.by_tensor)
        self._by_block = sorted(scaled, key=lambda one: one.row.scale.rows * one.row.scale.columns)

    def watch(self, node: Node, value: Any, values: Values) -> None:
        """Called with each node of a run, its value, and the values before it."""
        if node in self._sites:
            with torch.no_grad():
                self._slot(self._sites[node], unrounded(node, values).detach())
        elif node in self._sums:
            (result,) = tensors_in(value)  # of the backward of a convolution the one that is asked for
            with torch.no_grad():
                found = self._without_scales(self._whole(node, result.detach()))
            for slot in self._sums[node]:
                self._found[slot.name] = found

    def result(self) -> dict[str, ValueRange]:
        """The ranges of the slots seen so far, by name, in the order of the run."""
        return dict(self._found)

    def _slot(self, site: SlotSite, value: Tensor) -> None:
        found = self._whole(site.origin, value)
        if self._by_block:
            blocks = BlockLosses(value, found.zeros, found.nonfinite, found.amin)
            axes = {"axis": site.operand.contracted, "channel": site.operand.channel}
            own = {one.precision: blocks.loss(one, **axes) for one in self._by_block}
            found = replace(found, losses={**found.losses, **own})
        self._found[site.name] = found

    def _whole(self, origin: Node, value: Tensor) -> ValueRange:
        """What does not depend on the layout; of values shown by a view, as often as it shows them."""
        if origin not in self._by_origin or self._by_origin[origin].elements != value.numel():
            counts = MagnitudeCounts(stored(value), self.counting)
            often = value.numel() // max(counts.elements, 1)
            self._by_origin[origin] = _range_of(counts, self._whole_losses.losses(counts), often)
        return self._by_origin[origin]

    def _without_scales(self, found: ValueRange) -> ValueRange:
        losses = found.losses
        assert isinstance(losses, RangeLosses)
        return replace(found, losses=replace(losses, positions=self._plain))


def _range_of(counts: MagnitudeCounts, losses: RangeLosses, often: int) -> ValueRange:
    """Of values that are shown several times."""
    return ValueRange(
        elements=counts.elements * often,
        zeros=counts.zeros * often,
        nonfinite=counts.nonfinite * often,
        amax=counts.amax,
        amin=counts.bits.value(counts.smallest_nonzero),
        histogram=tuple((exponent, count * often) for exponent, count in counts.exponents()),
        losses=losses if often == 1 else losses.times(often),
    )
