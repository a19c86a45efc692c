"""Whether an exported file computes what precc computes: its weights, every rounding, every product, its outputs.

Each rounding is compared bit for bit three times: on the values that it has in the model, on probe values alone, and on
probe values as the product shows them (`product_probes`), where the runtime is not asked for the rounded values.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree

from precc.backends.onnx.document import OnnxDocument, SlotPlace
from precc.backends.onnx.findings import Findings, Runtime
from precc.backends.onnx.load_plan import contradictions, model_document, read_model
from precc.backends.onnx.probes import probe_values, probes_like
from precc.backends.onnx.product_probes import Operand, ProductProbe
from precc.backends.onnx.result_probes import probe_result
from precc.backends.onnx.runtimes import RUNTIMES, Arrays, runtime_named
from precc.backends.onnx.slot_graphs import TAP, ModelParts
from precc.backends.onnx.slot_values import is_rounded, rounded_by_precc
from precc.backends.onnx.structure import check_places
from precc.backends.onnx.traced_net import TracedNet, opened_for_export
from precc.backends.onnx.verification import OnnxVerification
from precc.errors import CaptureError, UnsupportedError
from precc.module import PrecisionModule, original
from precc.slots import ATTENTION, Slot

__all__ = ["verify_onnx"]

#: How often a rounding is probed alone, at most.
_ALONE = 8


def verify_onnx(
    path: str | Path,
    net: PrecisionModule,
    inputs: tuple[Any, ...],
    *,
    kwargs: Mapping[str, Any] | None = None,
    runtimes: Sequence[str] = tuple(RUNTIMES),
) -> OnnxVerification:
    """Compare a file of `precc.export_onnx` with the net that it was made from.

    Args:
        path: of the file.
        net: made by `precc.compile`, with the plan that it was exported with.
        inputs: example inputs, as the net takes them.
        kwargs: inputs by name, after those.
        runtimes: what is to run the file: ``"onnxruntime"``, on the CPU, and ``"reference"``, the evaluator of onnx.

    Raises:
        PlanError: the file is no ONNX file, or not one of precc's.
        CaptureError: the net is not a compiled one, or torch.export cannot trace it.
        BackendError: an unknown runtime.
        ExtraError: onnx or a runtime is not installed.
        OSError: the file cannot be read.
    """
    if not isinstance(net, PrecisionModule):
        raise CaptureError(f"verify_onnx takes a net made by precc.compile, not {type(net).__name__}")
    if not isinstance(inputs, tuple):
        raise CaptureError(f"inputs is the tuple of the net's inputs, such as (x,), not {type(inputs).__name__}")
    chosen = {name: runtime_named(name) for name in runtimes}
    model = read_model(path, weights=True)
    document = model_document(model, path)
    parts = ModelParts(model)
    findings = Findings(document.places.values(), chosen)
    for text in contradictions(model, document):
        findings.problem(text)
    weights = _check_net(net, inputs, kwargs or {}, document, findings)
    places = check_places(parts, document, findings)
    feeds = _feeds(parts, (*inputs, *(kwargs or {}).values()), findings)
    rounds = document.flavor != "annotate"
    own = _outputs_of(net if rounds else original(net), inputs, kwargs or {})
    for name, prepare in chosen.items():
        verified = _OneRuntime(parts, places, weights, Runtime(name, prepare, findings), findings)
        if feeds is not None:
            verified.check(feeds, own, _coarsest(document))
    _tell_uncompared(findings)
    return OnnxVerification(str(path), findings.rows, tuple(findings.problems), tuple(findings.notes))


def _check_net(
    net: PrecisionModule,
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    document: OnnxDocument,
    findings: Findings,
) -> dict[str, Tensor]:
    """Compare slots and precisions; the net's own operands that depend on no input, by slot."""
    with opened_for_export(net):
        traced = TracedNet.of(net, inputs, kwargs, None)
    plan = traced.plan(net)
    rounded = {own.slot.name for _, own, _ in traced.results if own.is_rounded(plan)}
    slots = {own.slot.name for _, own in traced.operands} | rounded
    for slot in sorted(slots - set(document.places)):
        findings.problem(f"{slot}: a slot of the net that the file has not")
    for slot, place in document.places.items():
        if slot not in slots:
            findings.problem(f"{slot}: a slot of the file that the net has not")
        elif not plan.precision(slot).history and place.rounding.precision != plan.precision(slot):
            said, chosen = place.rounding.precision, plan.precision(slot)
            findings.problem(f"{slot}: {said} in the file, {chosen} in the net's plan")
    if document.plan != plan:
        findings.problem(f"the plan of the file is not that of the net: {plan.diff(document.plan)!s:.200}")
    found = {}
    for node, operand in traced.operands:
        argument = node.args[operand.position]
        value = traced.constant(argument) if isinstance(argument, Node) else None
        if value is not None:
            found[operand.slot.name] = value.detach()
    return found


def _feeds(parts: ModelParts, inputs: tuple[Any, ...], findings: Findings) -> Arrays | None:
    tensors = [leaf for leaf in _pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if len(tensors) != len(parts.inputs):
        findings.problem(f"the file has {len(parts.inputs)} inputs, and was given {len(tensors)} tensors")
        return None
    return {name: _array(tensor) for name, tensor in zip(parts.inputs, tensors, strict=True)}


def _array(tensor: Tensor) -> Any:
    if tensor.dtype is torch.bfloat16:
        raise UnsupportedError("verify_onnx cannot run models of bfloat16 tensors: no runtime takes them from NumPy")
    return tensor.detach().cpu().numpy()


def _outputs_of(net: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    with _eval_mode(net), torch.no_grad():
        leaves = _pytree.tree_leaves(net(*inputs, **kwargs))
    return [_array(leaf) for leaf in leaves if isinstance(leaf, Tensor)]


@contextmanager
def _eval_mode(net: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _coarsest(document: OnnxDocument) -> float:
    """The largest relative error of a rounding in the file, by significand bits."""
    places = [place for place in document.places.values() if is_rounded(place)]
    return max((2.0 ** -(min(place.rounding.row.grid.mantissa_bits, 8) + 1) for place in places), default=2.0**-18)


def _tell_uncompared(findings: Findings) -> None:
    if not findings.problems:
        for row in findings.rows:
            if not row.compared:
                findings.problem(f"{row.slot}: no value was compared on {row.runtime}")


@dataclass(frozen=True, slots=True, eq=False)
class _OneRuntime:
    """The comparisons on one runtime."""

    parts: ModelParts
    places: Mapping[str, SlotPlace]
    weights: Mapping[str, Tensor]
    runtime: Runtime
    findings: Findings

    def check(self, feeds: Arrays, outputs: Sequence[Any], coarsest: float) -> None:
        """All of them; none where the runtime cannot run the model."""
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
            own = _array(weight)
            expected = own if row is None else rounded_by_precc(own, row)
            self.findings.compare(slot, self.runtime.name, expected, found, "the stored weight")
        elif not place.source:
            self.findings.problem(f"{slot}: the file stores it as a weight, which it is not in the net")
        elif is_rounded(place):
            expected = rounded_by_precc(tapped[place.source], place.rounding.row)
            self.findings.compare(slot, self.runtime.name, expected, found, "in the model")

    def _alone(self, slot: str, place: SlotPlace, source: Any) -> None:
        row = place.rounding.row
        every = len(probe_values(row, finite=False))
        run = self.runtime.prepare(self.parts.part({place.source: source}, [place.rounded]), f"the rounding of {slot}")
        for start in range(0, min(every, _ALONE * source.size), max(source.size, 1)):
            fed = probes_like(source.shape, row, finite=False, start=start).numpy().astype(source.dtype)
            found = run({place.source: fed})
            if found is not None:
                expected = rounded_by_precc(fed, row)
                self.findings.compare(slot, self.runtime.name, expected, found[place.rounded], "the rounding alone")

    def _products(self, tapped: Arrays) -> None:
        for name, node in self._nodes().items():
            own = [place for place in self.places.values() if place.node == name]
            if Slot.parse(own[0].rounding.slot).family == ATTENTION:
                continue  # softmax stands between its operands and its output
            operands = [
                Operand(
                    place,
                    tapped[place.source or place.rounded],
                    tapped[place.rounded],
                    self.parts.is_constant(place.source or place.rounded),
                )
                for place in own
                if not place.result
            ]
            bias = ProductProbe.bias_of(node)
            zeroed = {bias: np.zeros_like(tapped[bias])} if bias else {}
            ProductProbe(self.parts, node, operands, zeroed).run(self.runtime, self.findings)
            for place in own:
                if place.result and is_rounded(place):
                    probe_result(self.parts, node, place, tapped, self.runtime, self.findings)

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
