"""What one runtime makes of an exported file, compared with precc: each rounding, each product, the outputs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precc.backends.onnx.document import SlotPlace
from precc.backends.onnx.findings import Findings, Runtime
from precc.backends.onnx.probes import ProbeLimits, probe_values, probes_like, with_special
from precc.backends.onnx.product_probes import Operand, ProductProbe
from precc.backends.onnx.qdq_limits import keeps_nan, reference_limit
from precc.backends.onnx.result_probes import probe_result
from precc.backends.onnx.runtimes import Arrays
from precc.backends.onnx.slot_graphs import TAP, ModelParts
from precc.backends.onnx.slot_values import is_rounded, rounded_by_precc
from precc.backends.onnx.sum_checks import sum_problem
from precc.errors import BackendError, UnsupportedError
from precc.slots import ATTENTION, Slot

__all__ = ["RuntimeChecks", "array_of"]

#: How often a rounding is probed alone, at most.
_ALONE = 8


def array_of(tensor: Tensor) -> Any:
    """A tensor as NumPy has it.

    Raises:
        UnsupportedError: of bfloat16.
    """
    if tensor.dtype is torch.bfloat16:
        raise UnsupportedError("verify_onnx cannot run models of bfloat16 tensors: no runtime takes them from NumPy")
    return tensor.detach().cpu().numpy()


@dataclass(frozen=True, slots=True, eq=False)
class RuntimeChecks:
    """The comparisons on one runtime.

    Args:
        parts: of the model.
        places: of the slots that can be compared, by slot.
        weights: the net's own operands that depend on no input, by slot.
        flavor: of the file.
        runtime: what is to be compared.
        findings: where what is found goes.
    """

    parts: ModelParts
    places: Mapping[str, SlotPlace]
    weights: Mapping[str, Tensor]
    flavor: str
    runtime: Runtime
    findings: Findings

    def run(self, feeds: Arrays, outputs: Sequence[Any], coarsest: float) -> None:
        """All of them; none where the runtime cannot run the model.

        Args:
            feeds: inputs of the model by name.
            outputs: what the net makes of them.
            coarsest: the largest relative error of a rounding in the file.
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
        for number, expected in enumerate(outputs):
            self._output(number, expected, found[self.parts.model.graph.output[number].name], coarsest)

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
            expected = rounded_by_precc(tapped[place.source], place.rounding.row)
            self.findings.compare(slot, self.runtime.name, expected, found, "in the model")

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
        if self.flavor != "qdq":
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
        except BackendError as error:
            return f"the sums of {node.name!r} cannot be compared: {error}"

    def _operand(self, place: SlotPlace, tapped: Arrays) -> Operand:
        fed = place.source or place.rounded
        constant = self.parts.is_constant(fed)
        return Operand(place, tapped[fed], tapped[place.rounded], constant, self._limits(place))

    def _output(self, number: int, expected: Any, found: Any, coarsest: float) -> None:
        """Outputs differ where sums run in another order, and a value beside a tie then goes to its other neighbour."""
        largest = float(np.abs(expected).max(initial=0.0))
        if expected.shape != found.shape:
            self.findings.problem(f"output {number} has the shape {list(found.shape)}, not {list(expected.shape)}")
            return
        both_nan = np.isnan(expected) & np.isnan(found)
        difference = float(np.where(both_nan, 0.0, np.abs(expected - found)).max(initial=0.0))
        bound = 4 * coarsest * largest
        text = f"{self.runtime.name}: output {number} is off by {difference:.3g} at most, of values up to {largest:.3g}"
        if not difference <= bound:
            self.findings.problem(f"{text}; {bound:.3g} is what roundings in sums of another order explain")
        self.findings.notes.append(text)
