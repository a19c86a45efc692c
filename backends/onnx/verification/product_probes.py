"""Products of an exported file, probed: what a runtime computes from values whose products reveal their roundings.

The part of the model from the tensors before the roundings to the product is run as it is, without a look inside, so
that a runtime optimises it as it does in the whole; only the factors of a Gemm are 1. One operand is zero but for one
value in each sum: the sum is exact in any order, and what is not the product of the rounded values, bit for bit, was
rounded otherwise. A runtime that leaves a rounding out, or computes in a wider type than the graph says, shows here
alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from precc.backends.onnx.document import SlotPlace
from precc.backends.onnx.verification.findings import Findings, Runtime
from precc.backends.onnx.verification.probes import ProbeLimits, one_hot, probe_values, probes_like
from precc.backends.onnx.verification.runtimes import Arrays, EvaluatorError, evaluated
from precc.backends.onnx.verification.slot_graphs import ModelParts, unscaled
from precc.backends.onnx.verification.slot_values import rounded_by_precc, row_in_file
from precc.errors import BackendError
from precc.precision import AS_STORED
from precc.rounding import Row

__all__ = ["Operand", "ProductProbe"]

_Array = npt.NDArray[Any]

#: How often a product is probed for one operand, at most.
_RUNS = 4

#: What the one value in each sum may be: the first, from a place on that changes, that its own rounding leaves other
#: than zero. By a power of two alone, a rounding of the product would look like one of the operand.
_UNITS = (1.0, 1.5, 1.25, 1.75, 0.5, 2.0, 0.125, 8.0, 2.0**-8, 2.0**8)

_WITH_BIAS = frozenset({"Conv", "ConvTranspose", "Gemm"})


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """Of a product in the file.

    Args:
        place: where it is.
        fed: the value in the model of what it is fed by, for shape and type.
        value: its rounded value there.
        constant: whether it depends on no input.
        limits: which probes are left out.
    """

    place: SlotPlace
    fed: _Array
    value: _Array
    constant: bool
    limits: ProbeLimits

    @property
    def feed(self) -> str:
        """The tensor by which it is fed: before the rounding, if there is one."""
        return self.place.source or self.place.rounded

    @property
    def row(self) -> Row:
        """What happens to what it is fed with."""
        return row_in_file(self.place) if self.place.source else AS_STORED.row()

    def probes(self, start: int) -> torch.Tensor:
        """Finite values that show its rounding."""
        return probes_like(self.value.shape, self.row, finite=True, start=start, limits=self.limits)

    def values(self, own: torch.Tensor) -> tuple[_Array, _Array]:
        """Values in the type of what it is fed by, and what they are rounded to."""
        with np.errstate(over="ignore"):  # of float16 tensors
            fed = own.numpy().astype(self.fed.dtype)
        return fed, rounded_by_precc(fed, self.row).astype(self.value.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class ProductProbe:
    """Of one node.

    Args:
        parts: of the model.
        node: the node (``onnx.NodeProto``).
        operands: of the product, in the order of the graph.
        zeroed: biases of the node, as zeros.
    """

    parts: ModelParts
    node: Any
    operands: Sequence[Operand]
    zeroed: Mapping[str, _Array]
    _products: dict[tuple[str, ...], Any] = field(default_factory=dict)

    @classmethod
    def bias_of(cls, node: Any) -> str:
        """The tensor that a node adds to its product itself; empty if there is none."""
        return node.input[2] if node.op_type in _WITH_BIAS and len(node.input) > 2 else ""

    def run(self, runtime: Runtime, findings: Findings) -> None:
        """Compare what each operand's rounding shows."""
        if not all(own.value.size for own in self.operands):
            for own in self.operands:
                findings.excuse(own.place.rounding.slot, f"the product {self.node.name!r} is empty with these inputs")
        for own, other in self._pairs():
            try:
                if own.place.source and own.feed != other.feed:
                    self._probe(own, other, runtime, findings)
                if other.constant or own.feed == other.feed:
                    self._probe_in_place(own, other, runtime, findings)
            except EvaluatorError as error:
                findings.excuse(own.place.rounding.slot, f"the node {self.node.name!r} is not probed alone: {error}")
            except BackendError as error:
                slot = own.place.rounding.slot
                findings.problem(f"{slot}: the node {self.node.name!r} cannot be probed alone: {error}")

    def _pairs(self) -> Iterator[tuple[Operand, Operand]]:
        if len(self.operands) == 2 and all(own.value.size for own in self.operands):
            first, second = self.operands
            yield first, second
            yield second, first

    def _probe(self, own: Operand, other: Operand, runtime: Runtime, findings: Findings) -> None:
        """All values of one operand at once, by one value in each sum of the other."""
        size = max(own.value.size, 1)
        runs = min(_RUNS, max(2, math.ceil(len(probe_values(own.row, finite=True)) / size)))
        hot = [self._hot(own, other, number) for number in range(runs)]
        run: Callable[[Arrays], Arrays | None] | None = None
        for number, ones in enumerate(hot):
            if ones is None:
                slot = own.place.rounding.slot
                findings.problem(f"{slot}: no values of {other.feed!r} show single values of it in {self.node.name!r}")
                return
            fed, expected = own.values(own.probes(number * size))
            constants, feeds = {other.feed: ones.fed}, {own.feed: fed}
            if not other.constant:
                constants, feeds = {}, {**feeds, **constants}
            if run is None or constants:
                run = self._prepared(runtime, feeds, constants)
            pair = {own.place.rounded: expected, other.place.rounded: ones.expected}
            self._compare(run(feeds), pair, ones.single, (own, runtime), findings)

    def _probe_in_place(self, own: Operand, other: Operand, runtime: Runtime, findings: Findings) -> None:
        """One value in each sum of one operand, by the other as the file has it: a stored weight, or the same one."""
        if not own.place.source:
            return
        run: Callable[[Arrays], Arrays | None] | None = None
        for number in range(2):
            pattern = next(self._patterns(own, number))
            probes = own.probes(number * own.value.size)
            fed, expected = own.values(torch.where(pattern > 0, probes, torch.zeros(())))
            same = own.feed == other.feed
            theirs = rounded_by_precc(fed, other.row).astype(other.value.dtype) if same else other.value
            mask = theirs != 0 if same else np.ones(theirs.shape, dtype=bool)
            single = self._counts({own.place.rounded: expected != 0, other.place.rounded: mask}, other) == 1
            run = run or self._prepared(runtime, {own.feed: fed}, {})
            known = same or findings.is_wrong(own.place.rounding.slot, runtime.name)
            pair = {own.place.rounded: expected, other.place.rounded: theirs}
            self._compare(run({own.feed: fed}), pair, single, (own if known else other, runtime), findings)

    def _prepared(self, runtime: Runtime, feeds: Arrays, constants: Arrays) -> Callable[[Arrays], Arrays | None]:
        model = unscaled(self.parts.part(feeds, self.node.output[:1], {**self.zeroed, **constants}), self.node)
        return runtime.prepare(model, f"the product {self.node.name!r}")

    def _compare(
        self, found: Arrays | None, pair: Arrays, single: _Array, shown: tuple[Operand, Runtime], findings: Findings
    ) -> None:
        """Compare what a runtime found with the product of rounded operands, where one term of a sum is not zero."""
        if found is None:
            return
        value, expected = found[self.node.output[0]], self._product(pair)
        if value.shape == single.shape:
            value, expected = value[single], expected[single]
        operand, runtime = shown
        where = f"in the product {self.node.name}"
        findings.compare(operand.place.rounding.slot, runtime.name, expected, value, where, zeros=False)

    def _hot(self, own: Operand, other: Operand, shift: int) -> "_Hot | None":
        """Values of the other operand of which each sum has one; None if there are none."""
        best: _Hot | None = None
        units = (*_UNITS[shift:], *_UNITS[:shift])
        for pattern in self._patterns(other, shift):
            fed, rounded = next(
                (found for unit in units if _keeps(found := other.values(pattern * unit), pattern)), (None, None)
            )
            if fed is None or rounded is None:
                continue
            masks = {own.place.rounded: np.ones(own.value.shape, dtype=bool), other.place.rounded: rounded != 0}
            single = self._counts(masks, other) == 1
            if best is None or single.sum() > best.single.sum():
                best = _Hot(fed, rounded, single)
            if single.mean() > 0.75:
                break
        return best if best is not None and best.single.any() else None

    def _patterns(self, operand: Operand, shift: int) -> Iterator[torch.Tensor]:
        dims = operand.value.ndim
        along = [dim for dim in range(dims) if dim != operand.place.rounding.axis % max(dims, 1)]
        of_channels = [[0], [1 % max(dims, 1)]]
        convolves = self.node.op_type.startswith("Conv")
        for kept in (*of_channels, along) if convolves else (along, *of_channels):
            yield one_hot(operand.value.shape, kept, shift)

    def _counts(self, masks: Mapping[str, _Array], like: Operand) -> _Array:
        """How many terms of each sum are not zero."""
        return self._product({name: mask.astype(like.value.dtype) for name, mask in masks.items()})

    def _product(self, pair: Arrays) -> _Array:
        """The product of rounded operands by the reference evaluator; exact, where one term of each sum is not zero."""
        names = tuple(sorted(pair))
        if names not in self._products:
            self._products[names] = unscaled(self.parts.part(pair, self.node.output[:1], self.zeroed), self.node)
        return evaluated(self._products[names], pair)[self.node.output[0]]


@dataclass(frozen=True, slots=True, eq=False)
class _Hot:
    """Values, what they are rounded to, and at which outputs a single one counts."""

    fed: _Array
    expected: _Array
    single: _Array


def _keeps(found: tuple[_Array, _Array], pattern: torch.Tensor) -> bool:
    """Whether what is rounded is zero where the pattern is, and finite elsewhere."""
    rounded = found[1]
    return bool(np.isfinite(rounded).all() and np.array_equal(rounded != 0, pattern.numpy() != 0))
