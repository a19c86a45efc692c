"""Sampled dot products of every product of a step, with the adjoints of loss and gradient at their results."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.accumulation.patches import Patches
from precc.accumulation.product_ops import Multiplier, multiplying, product_functions
from precc.analysis.accumulator_sample import AccumulatorSample, AdjointTotals
from precc.analysis.slot_sample import Drawn, drawn_by_size
from precc.analysis.step_runs import Values
from precc.analysis.traced_step import TracedStep
from precc.annotations import Product, products_of
from precc.passes.place_accumulators import operator_of
from precc.rounding import slot_number
from precc.stored_nodes import CONVOLUTION_BACKWARD

__all__ = ["AccumulatorSamples", "AccumulatorWatcher"]

_aten = torch.ops.aten

#: Bytes of the sampled rows of one product, and the samples that there are nevertheless.
_MOST_BYTES, _FEWEST = 1 << 20, 4


@dataclass(frozen=True, slots=True)
class AccumulatorSamples:
    """How dot products are drawn.

    Args:
        samples: of each product; fewer where they are long, so that they take about 2 MB at most.
        seed: of their choice.
    """

    samples: int = 64
    seed: int = 0

    def watcher(self, step: TracedStep) -> "AccumulatorWatcher":
        """What looks at one differentiable run of a step."""
        products = {node: own for node, own in products_of(step.graph.graph) if own.accumulators}
        return AccumulatorWatcher(products, self)


@dataclass(slots=True, eq=False)
class AccumulatorWatcher:
    """Keeps the samples of all products, and the adjoints that come to them."""

    products: Mapping[Node, Product]
    options: AccumulatorSamples
    seen: list["_Seen"] = field(default_factory=list)

    def see(self, node: Node, value: Any, values: Values) -> None:
        """Look at a node of the run; `values` are those before it."""
        product = self.products.get(node)
        if product is None:
            return
        result: Tensor = value[1 - int(node.args[10][0])] if node.target is CONVOLUTION_BACKWARD else value  # type: ignore[index,arg-type]
        name = product.accumulators[0].name
        gather = _Gather(result.detach(), product, self.options.samples, self.options.seed ^ slot_number(name))
        with torch.no_grad():
            gather.run(node, values)
        seen = _Seen(node, product, gather, _sums(node, result.detach(), values))
        if result.requires_grad:
            result.register_hook(seen.note)
        self.seen.append(seen)

    def loss_adjoints(self) -> None:
        """The adjoints of the loss are complete."""
        for seen in self.seen:
            seen.loss, seen.adjoint = seen.adjoint, None

    def next_probe(self, scale: float) -> None:
        """The adjoints of one probe are complete; they are kept times a factor."""
        for seen in self.seen:
            seen.probes.append(None if seen.adjoint is None else seen.adjoint.scaled(scale))
            seen.adjoint = None

    def result(self) -> tuple[AccumulatorSample, ...]:
        """What was found, in the order of the graph; the watcher holds nothing of the run after that."""
        found = tuple(seen.sample() for seen in self.seen)
        self.seen.clear()
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Adjoint:
    """At the sampled sums, and totals over all of them."""

    sampled: Tensor
    totals: AdjointTotals

    def scaled(self, factor: float) -> "_Adjoint":
        """The same times a factor."""
        own = self.totals
        squared = factor * factor
        totals = AdjointTotals(own.by_factor * factor, own.squares * squared, own.by_size * squared)
        return _Adjoint(self.sampled * factor, totals)


@dataclass(slots=True, eq=False)
class _Seen:
    """One product of the run.

    Args:
        node: of the product.
        product: what is known of it.
        gather: its sampled rows.
        sums: computes all sums.
    """

    node: Node
    product: Product
    gather: "_Gather"
    sums: Callable[[], Tensor]
    adjoint: _Adjoint | None = None
    loss: _Adjoint | None = None
    probes: list[_Adjoint | None] = field(default_factory=list)

    def note(self, adjoint: Tensor) -> None:
        own, drawn = adjoint.detach(), self.gather.drawn
        sums, alpha = self.sums(), float(self.node.kwargs.get("alpha", 1))  # type: ignore[arg-type]
        if alpha != 1:
            own, sums = own * alpha, sums / alpha
        self.adjoint = _Adjoint(own.reshape(-1)[drawn.positions].double(), AdjointTotals.of(own, sums))

    def sample(self) -> AccumulatorSample:
        gather, drawn = self.gather, self.gather.drawn
        none = _Adjoint(torch.zeros_like(drawn.weights), AdjointTotals(0.0, 0.0, 0.0))
        probes = [probe or none for probe in self.probes] or [none]
        left, right = gather.rows()
        first, second = (operand.slot.name for operand in self.product.operands)
        return AccumulatorSample(
            name=self.product.accumulators[0].name,
            node=self.node.name,
            slots=(first, second),
            elements=gather.elements,
            terms=left.shape[1],
            positions=drawn.positions,
            left=left,
            right=right,
            weights=drawn.weights,
            loss=None if self.loss is None else self.loss.sampled,
            gradient=torch.stack([probe.sampled for probe in probes]),
            loss_totals=none.totals if self.loss is None else self.loss.totals,
            gradient_totals=tuple(probe.totals for probe in probes),
        )


def _sums(node: Node, value: Tensor, values: Values) -> Callable[[], Tensor]:
    """All sums of a product, times alpha: its result without what is added to them."""
    bias = _bias(node, values)
    return (lambda: value) if bias is None else (lambda: value - bias)


def _bias(node: Node, values: Values) -> Tensor | None:
    if node.target in (_aten.addmm.default, _aten.baddbmm.default):
        beta: Any = node.kwargs.get("beta", 1)
        own: Tensor = values[node.args[0]].detach()  # type: ignore[index]
        return own if beta == 1 else own * beta
    if node.target is _aten.convolution.default and node.args[2] is not None:
        bias: Tensor = values[node.args[2]].detach()  # type: ignore[index]
        return bias.reshape(-1, *(1,) * (node.meta["val"].dim() - 2))
    return None


@dataclass(slots=True, eq=False)
class _Gather:
    """The rows of both operands at some outputs, taken where `precc.accumulation.product_ops` would multiply.

    Args:
        result: all outputs.
        product: of which they are.
        samples: how many are drawn.
        seed: of the choice.
    """

    result: Tensor
    product: Product
    samples: int
    seed: int
    drawn: Drawn = field(init=False)
    elements: int = field(init=False)
    parts: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)  # which samples, and their rows

    def run(self, node: Node, values: Values) -> None:
        """Take them from the arguments of the product's node."""
        name, arguments = operator_of(node)
        own = torch.fx.node.map_arg(arguments, lambda argument: values[argument].detach())
        self.elements = self.result.numel()
        self._draw()
        product_functions(self._read)[name](*own, None, 0, **_numbers(node))
        del self.result

    def _draw(self) -> None:
        terms = max(1, int(self.product.multiply_adds) // max(1, self.elements))
        size = 2 * terms * self.result.element_size()
        self.drawn = drawn_by_size(self.result, max(_FEWEST, min(self.samples, _MOST_BYTES // size)), self.seed)

    def _read(self, plan: None, row: int, *, swapped: bool = False) -> Multiplier:
        return multiplying(lambda a, b, first: self._take(a, b, first, swapped))

    def _take(self, a: Tensor, b: Tensor | Patches, first: int, swapped: bool) -> Tensor:
        """Keep the rows of those sampled outputs that are from `first` on; what it returns has their shape alone."""
        shape = (*a.shape[:-1], b.shape[-1]) if a.dim() == 2 else (b.shape[0], a.shape[1], b.shape[2])
        last, positions = first + math.prod(shape), self.drawn.positions
        which = ((positions >= first) & (positions < last)).nonzero()[:, 0]
        matrix, row, column = _where(positions[which] - first, shape)
        left = a[row] if a.dim() == 2 else a[matrix % a.shape[0], row]
        right = _columns(b, matrix, column)
        self.parts.append((which, right, left) if swapped else (which, left, right))
        return a.new_zeros(()).expand(shape)

    def rows(self) -> tuple[Tensor, Tensor]:
        """[samples, terms] of each operand; shorter ones, and outputs without any term, end with zeros."""
        terms = max((left.shape[1] for _, left, _ in self.parts), default=0)
        like = self.drawn.weights if not self.parts else self.parts[0][1]
        both = (like.new_zeros(len(self.drawn.positions), terms), like.new_zeros(len(self.drawn.positions), terms))
        for which, *own in self.parts:
            for whole, part in zip(both, own, strict=True):
                whole[which, : part.shape[1]] = part
        return both


def _numbers(node: Node) -> Mapping[str, Any]:
    return {name: value for name, value in node.kwargs.items() if name in ("alpha", "beta")}


def _where(index: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix, row and column of row-major numbers; of a single matrix the first is 0."""
    rows, columns = shape[-2:]
    return index // (rows * columns), index // columns % rows, index % columns


def _columns(b: Tensor | Patches, matrix: Tensor, column: Tensor) -> Tensor:
    """Column j of matrix i of `b`, [samples, terms]."""
    if isinstance(b, Tensor):
        return b[:, column].t() if b.dim() == 2 else b[matrix, :, column]
    batch, depth, width = (offsets.to(matrix.device) for offsets in b.offsets)
    index = (batch[matrix] + width[column])[:, None] + depth
    return b.base.reshape(-1)[index]
