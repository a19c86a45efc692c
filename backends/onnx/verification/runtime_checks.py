"""What one runtime makes of an exported file, compared with precc: each rounding, each product, the outputs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from precc.backends.onnx.document import SlotPlace
from precc.backends.onnx.roundings.qdq_limits import keeps_nan, reference_limit
from precc.backends.onnx.verification.findings import Findings, Runtime
from precc.backends.onnx.verification.forced_values import ForcedValues
from precc.backends.onnx.verification.probes import ProbeLimits, probe_values, probes_like, with_special
from precc.backends.onnx.verification.product_probes import Operand, ProductProbe
from precc.backends.onnx.verification.quantiser_checks import has_quantisers
from precc.backends.onnx.verification.result_probes import probe_result
from precc.backends.onnx.verification.runtimes import Arrays, EvaluatorError
from precc.backends.onnx.verification.segment_checks import SegmentChecks
from precc.backends.onnx.verification.slot_graphs import TAP, ModelParts
from precc.backends.onnx.verification.slot_values import is_rounded, rounded_by_precc
from precc.backends.onnx.verification.sum_checks import sum_problem
from precc.backends.onnx.verification.tensor_arrays import array_of
from precc.errors import BackendError
from precc.slots import ATTENTION, Slot

__all__ = ["RuntimeChecks"]

#: How often a rounding is probed alone, at most.
_ALONE = 8


@dataclass(frozen=True, slots=True, eq=False)
class RuntimeChecks:
    """The comparisons on one runtime.

    Args:
        parts: of the model.
        places: of the slots that can be compared, by slot.
        weights: the net's own operands that depend on no input, by slot.
        flavor: of the file.
        forced: what torch computes from rounded values on.
        runtime: what is to be compared.
        findings: where what is found goes.
    """

    parts: ModelParts
    places: Mapping[str, SlotPlace]
    weights: Mapping[str, Tensor]
    flavor: str
    forced: ForcedValues
    runtime: Runtime
    findings: Findings

    def run(self, feeds: Arrays, outputs: Sequence[Any]) -> None:
        """All of them; none where the runtime cannot run the model.

        Args:
            feeds: inputs of the model by name.
            outputs: what the net makes of them.
        """
        names = [name for place in self.places.values() for name in (place.source, place.rounded) if name]
        names += [bias for node in self._nodes().values() if (bias := ProductProbe.bias_of(node))]
        names += [name for node in self._nodes().values() for name in (*node.input, node.output[0]) if name]
        found = self.runtime.run(self.parts.tapped(names), feeds, "the model")
        if found is None:
            return
        tapped = {name.removeprefix(TAP): value for name, value in found.items() if name.startswith(TAP)}
        for slot, place in self.places.items():
            self._in_model(slot, place, tapped)
            if place.source and is_rounded(place):
                self._alone(slot, place, tapped[place.source])
        self._products(tapped)
        SegmentChecks(self.parts, self.places, self.forced, self.runtime, self.findings).run(feeds, tapped)
        for number, (own, output) in enumerate(zip(outputs, self.parts.model.graph.output, strict=False)):
            self._note_output(number, own, found[output.name])

    def _nodes(self) -> dict[str, Any]:
        wanted = {place.node for place in self.places.values()}
        return {node.name: node for node in self.parts.model.graph.node if node.name in wanted}

    def _in_model(self, slot: str, place: SlotPlace, tapped: Arrays) -> None:
        found = tapped[place.rounded]
        weight = self.weights.get(slot)
        if weight is not None and not place.result:
            row = place.rounding.row if is_rounded(place) else None
            own = array_of(weight)
            expected = own if row is None else rounded_by_precc(own, row)
            self.findings.compare(slot, self.runtime.name, expected, found, "the stored weight")
        elif not place.source:
            self.findings.problem(f"{slot}: the file stores it as a weight, which it is not in the net")
        elif is_rounded(place):
            source = tapped[place.source]
            known = self._known(slot, place, source)
            expected = rounded_by_precc(source, place.rounding.row)
            if expected.shape == found.shape:
                expected, found = expected[known], found[known]
            self.findings.compare(slot, self.runtime.name, expected, found, "in the model")

    def _known(self, slot: str, place: SlotPlace, source: Any) -> Any:
        """Where the file is to give what precc does."""
        limits = self._limits(place)
        beyond = np.isfinite(source) & (np.abs(source) >= limits.magnitude) & math.isfinite(limits.magnitude)
        beyond |= np.isinf(source) & math.isfinite(limits.magnitude)
        if not limits.nan:
            beyond |= np.isnan(source)
        if count := int(np.count_nonzero(beyond)):
            kinds = "NaN, or beyond what it saturates right," if math.isfinite(limits.magnitude) else "NaN"
            self.findings.note(f"{self.runtime.name}: {count} values of {slot} are {kinds} and are not compared")
        return ~beyond

    def _alone(self, slot: str, place: SlotPlace, source: Any) -> None:
        row = place.rounding.row
        run = self.runtime.prepare(self.parts.part({place.source: source}, [place.rounded]), f"the rounding of {slot}")
        for probes in self._probes(place, source):
            fed = probes.numpy().astype(source.dtype)
            found = run({place.source: fed})
            if found is not None:
                expected = rounded_by_precc(fed, row)
                self.findings.compare(slot, self.runtime.name, expected, found[place.rounded], "the rounding alone")

    def _probes(self, place: SlotPlace, source: Any) -> Iterator[Tensor]:
        row, limits = place.rounding.row, self._limits(place)
        every = len(probe_values(row, finite=False))
        for start in range(0, min(every, _ALONE * source.size), max(source.size, 1)):
            yield probes_like(source.shape, row, finite=False, start=start, limits=limits)
        ordinary = probes_like(source.shape, row, finite=True, limits=limits)
        infinite = (math.inf, -math.inf) if math.isinf(limits.magnitude) else ()
        for special in (*infinite, *[math.nan] * limits.nan):
            yield with_special(ordinary, special)

    def _limits(self, place: SlotPlace) -> ProbeLimits:
        """Of the types and quantisers of ONNX, and of the evaluator."""
        if self.flavor != "qdq" or not place.source or has_quantisers(self.parts, place):
            return ProbeLimits()
        most = reference_limit(place.rounding) if self.runtime.name == "reference" else math.inf
        return ProbeLimits(most, keeps_nan(place.rounding))

    def _products(self, tapped: Arrays) -> None:
        for name, node in self._nodes().items():
            own = [place for place in self.places.values() if place.node == name]
            if Slot.parse(own[0].rounding.slot).family == ATTENTION:
                continue  # softmax stands between its operands and its output
            operands = [self._operand(place, tapped) for place in own if not place.result]
            bias = ProductProbe.bias_of(node)
            zeroed = {bias: np.zeros_like(tapped[bias])} if bias else {}
            ProductProbe(self.parts, node, operands, zeroed).run(self.runtime, self.findings)
            if len(operands) == 2 and (problem := self._sums(node, operands, tapped)):
                self.findings.problem(f"{self.runtime.name}: {problem}")
            for place in own:
                if place.result and is_rounded(place):
                    probe_result(self.parts, node, place, tapped, self._limits(place), self.runtime, self.findings)

    def _sums(self, node: Any, operands: Sequence[Operand], tapped: Arrays) -> str:
        try:
            return sum_problem(self.parts, node, [own.place.rounded for own in operands], tapped)
        except EvaluatorError as error:
            self.findings.note(f"the sums of {node.name!r} are not compared by themselves: {error}")
            return ""
        except BackendError as error:
            return f"the sums of {node.name!r} cannot be compared: {error}"

    def _operand(self, place: SlotPlace, tapped: Arrays) -> Operand:
        fed = place.source or place.rounded
        constant = self.parts.is_constant(fed)
        return Operand(place, tapped[fed], tapped[place.rounded], constant, self._limits(place))

    def _note_output(self, number: int, expected: Any, found: Any) -> None:
        """Say how far outputs are off: sums run in another order, and a value beside a tie goes to its neighbour."""
        if expected.shape != found.shape or expected.dtype.kind != "f" or not expected.size:
            return
        known = np.isfinite(expected) & np.isfinite(found)
        expected, found = (np.where(known, value, 0).astype(np.float64) for value in (expected, found))
        off, largest = float(np.abs(expected - found).max()), float(np.abs(expected).max())
        self.findings.note(
            f"{self.runtime.name}: output {number} is off by {off:.3g} at most, of values up to {largest:.3g}"
        )
