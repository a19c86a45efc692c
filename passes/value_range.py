"""The ranges of the values at every slot of a step, and how many of them each precision loses; where NaN arises first.

One run of the step. What a slot reads is counted once for all slots that read the same values; only precisions with
scales along a dimension are looked at slot by slot. No tensor is rounded.
"""

import math
import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.magnitude_counts import MagnitudeCounts, stored
from precc.analysis.range_losses import BlockLosses, RangeCandidate, candidate_of
from precc.analysis.slot_sites import SlotSite, is_view, sites_of
from precc.analysis.step_runs import StepRunner, Values, unrounded
from precc.analysis.traced_step import TracedStep
from precc.analysis.value_range import RangeLoss, ValueRange
from precc.annotations import products_of
from precc.formats import Format
from precc.passes.products import op_name
from precc.precision import Precision
from precc.round_op import ROUND
from precc.source_places import place_of

__all__ = ["DEFAULT_CANDIDATES", "USUAL_CANDIDATES", "RangeWatcher", "ValueRanges", "described"]

#: What stands before the path of a module in the net.
_ROOT = re.compile(r"^L\['\w+'\]\.?")
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

    Raises:
        UnsupportedError: a candidate has a transform.
    """

    candidates: Sequence[Precision | Format | str] = DEFAULT_CANDIDATES

    name: ClassVar[str] = "value_range"

    def run(self, step: TracedStep) -> dict[str, ValueRange]:
        """The ranges by name of the slot."""
        watcher = self.watcher(step)
        with torch.no_grad():
            StepRunner(step).run(unrounded, watch=watcher.watch)
        return watcher.result()

    def watcher(self, step: TracedStep) -> "RangeWatcher":
        """What looks on while the step runs."""
        return RangeWatcher(step, tuple(candidate_of(Precision.of(choice)) for choice in self.candidates))


@dataclass(eq=False)
class RangeWatcher:
    """Counts values while a step runs; it changes none, and draws no random number.

    A value becomes non-finite first where it has a NaN and its arguments have none, or an infinity and its arguments
    are finite, unless the node says so itself, such as ``full(-inf)`` for a mask.

    Args:
        step: the step.
        candidates: precisions whose losses are counted.
    """

    step: TracedStep
    candidates: tuple[RangeCandidate, ...]
    first_nonfinite: Node | None = field(init=False, default=None)
    _found: dict[str, ValueRange] = field(init=False, default_factory=dict)
    _by_origin: dict[Node, ValueRange] = field(init=False, default_factory=dict)
    _states: dict[Node, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._sites: dict[Node, SlotSite] = {site.node: site for site in sites_of(self.step)}
        every = products_of(self.step.graph.graph)
        self._sums = {node: product.accumulators for node, product in every if product.accumulators}

    def watch(self, node: Node, value: Any, values: Values) -> None:
        """Called with each node of a run, its value, and the values before it."""
        with torch.no_grad():
            if self.first_nonfinite is None:
                self._look_for_nonfinite(node, value)
            if node in self._sites:
                self._slot(self._sites[node], unrounded(node, values).detach())
            elif node in self._sums:
                (result,) = _tensors(value)  # of the backward of a convolution the one that is asked for
                for slot in self._sums[node]:
                    self._found[slot.name] = _without_scales(self._whole(node, result.detach()))

    def result(self) -> dict[str, ValueRange]:
        """The ranges of the slots seen so far, by name, in the order of the run."""
        return dict(self._found)

    def _slot(self, site: SlotSite, value: Tensor) -> None:
        whole = self._whole(site.origin, value)
        blocks = BlockLosses(value, whole.zeros, whole.nonfinite, whole.amin) if self._by_block else None
        axes = {"axis": site.operand.contracted, "channel": site.operand.channel}
        own = {one.precision: blocks.loss(one, **axes) for one in self._by_block if blocks is not None}
        self._found[site.name] = replace(whole, losses={**whole.losses, **own})

    @property
    def _by_block(self) -> list[RangeCandidate]:
        """Small blocks first: the largest magnitudes of others are found from theirs."""
        own = (one for one in self.candidates if not one.by_tensor)
        return sorted(own, key=lambda one: one.row.scale.rows * one.row.scale.columns)

    def _whole(self, origin: Node, value: Tensor) -> ValueRange:
        """What does not depend on the layout; of values shown by a view, as often as it shows them."""
        if origin not in self._by_origin or self._by_origin[origin].elements != value.numel():
            counts = MagnitudeCounts(stored(value))
            found = _range_of(counts, [one for one in self.candidates if one.by_tensor])
            self._by_origin[origin] = _times(found, value.numel() // max(counts.elements, 1))
        return self._by_origin[origin]

    def _look_for_nonfinite(self, node: Node, value: Any) -> None:
        before = max((self._states.get(argument, 0) for argument in node.all_input_nodes), default=0)
        if _only_shows(node):
            self._states[node] = before
            return
        self._states[node] = max((_state(own, before) for own in _tensors(value)), default=0)
        if self._states[node] > before and node.op == "call_function" and not _says_nonfinite(node):
            self.first_nonfinite = node


def _range_of(counts: MagnitudeCounts, candidates: Sequence[RangeCandidate]) -> ValueRange:
    return ValueRange(
        elements=counts.elements,
        zeros=counts.zeros,
        nonfinite=counts.nonfinite,
        amax=counts.bits.value(counts.largest),
        amin=counts.bits.value(counts.smallest_nonzero),
        histogram=counts.exponents(),
        losses={one.precision: one.loss(counts) for one in candidates},
    )


def _times(found: ValueRange, often: int) -> ValueRange:
    if often == 1:
        return found
    losses = {
        precision: RangeLoss(own.underflow * often, own.overflow * often, own.elements * often)
        for precision, own in found.losses.items()
    }
    histogram = tuple((exponent, count * often) for exponent, count in found.histogram)
    counted = {name: getattr(found, name) * often for name in ("elements", "zeros", "nonfinite")}
    return replace(found, **counted, histogram=histogram, losses=losses)


def _without_scales(found: ValueRange) -> ValueRange:
    plain = {precision: loss for precision, loss in found.losses.items() if precision.granularity is None}
    return replace(found, losses=plain)


def _only_shows(node: Node) -> bool:
    """Whether a node's values are those of its first argument."""
    return is_view(node) or node.target in (ROUND, operator.getitem)


def _tensors(value: Any) -> Iterator[Tensor]:
    for own in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(own, Tensor) and own.is_floating_point():
            yield own


def _state(value: Tensor, before: int) -> int:
    """0: all finite; 1: infinities; 2: a NaN."""
    total = float(value.sum())  # of finite values it can overflow; of others it is never finite
    if math.isfinite(total):
        return 0
    if math.isinf(total) and before:
        return 1
    if bool(value.isnan().any()):
        return 2
    return 0 if bool(value.isfinite().all()) else 1


def _says_nonfinite(node: Node) -> bool:
    numbers = [own for own in (*node.args, *node.kwargs.values()) if isinstance(own, float)]
    return not all(map(math.isfinite, numbers))


def described(node: Node) -> str:
    """Which node it is, in words: the module, the op, and the user's line.

    >>> described(torch.fx.Graph().placeholder("x"))
    'x (placeholder, in the net itself)'
    """
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    layer = _ROOT.sub("", str(list(stack.values())[-1][0])) if stack else ""
    where = layer or "the net itself"
    if node.op != "call_function":
        return f"{node.name} ({node.op}, in {where})"
    place = place_of(node, layer)
    line = f", {place}: {place.code}" if place.file else ""
    return f"{op_name(node)} of {where}{line}"
