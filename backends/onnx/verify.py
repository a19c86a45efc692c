"""Whether an exported file computes what precc computes: its weights, every rounding, every product, its outputs.

Each rounding is compared bit for bit three times: on the values that it has in the model, on probe values alone, and on
probe values as the product shows them (`product_probes`), where the runtime is not asked for the rounded values.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree

from precc.backends.onnx.document import OnnxDocument, SlotPlace
from precc.backends.onnx.findings import Findings, Runtime
from precc.backends.onnx.load_plan import contradictions, model_document, read_model
from precc.backends.onnx.runtime_checks import RuntimeChecks, array_of
from precc.backends.onnx.runtimes import RUNTIMES, Arrays, runtime_named
from precc.backends.onnx.slot_graphs import ModelParts
from precc.backends.onnx.slot_values import is_rounded
from precc.backends.onnx.structure import check_places
from precc.backends.onnx.traced_net import TracedNet, opened_for_export
from precc.backends.onnx.verification import OnnxVerification
from precc.errors import CaptureError
from precc.module import PrecisionModule, original, session_of
from precc.slots import ATTENTION, Role, Slot

__all__ = ["verify_onnx"]


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
    findings = Findings(filter(_is_comparable, document.places.values()), chosen)
    for text in contradictions(model, document):
        findings.problem(text)
    weights = _check_net(net, inputs, kwargs or {}, document, findings)
    places = check_places(parts, document, findings)
    feeds = _feeds(parts, (*inputs, *(kwargs or {}).values()), findings)
    rounds = document.flavor != "annotate"
    own = _outputs_of(net if rounds else original(net), inputs, kwargs or {})
    _check_captured(net, document, findings)
    for name, prepare in chosen.items():
        if feeds is not None:
            checks = RuntimeChecks(parts, places, weights, document.flavor, Runtime(name, prepare, findings), findings)
            checks.run(feeds, own, _coarsest(document))
    _tell_uncompared(findings)
    return OnnxVerification(str(path), findings.rows, tuple(findings.problems), tuple(findings.notes))


def _is_comparable(place: SlotPlace) -> bool:
    """Whether its rounding shows, or that there is none: behind a softmax it does not, and a result is what it is."""
    return is_rounded(place) or not (place.result or Slot.parse(place.rounding.slot).family == ATTENTION)


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


def _check_captured(net: PrecisionModule, document: OnnxDocument, findings: Findings) -> None:
    """Compare with the graphs that the net itself has run in eval mode, of which torch.export knows nothing."""
    run = [graph for graph in session_of(net).graphs.known if not graph.training]
    own = {operand.slot for graph in run for product in graph.products for operand in product.operands}
    for slot in sorted(slot.name for slot in own if slot.role is Role.FPROP):
        if slot not in document.places:
            findings.problem(f"{slot}: a slot of the net that the file has not")


def _feeds(parts: ModelParts, inputs: tuple[Any, ...], findings: Findings) -> Arrays | None:
    tensors = [leaf for leaf in _pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if len(tensors) != len(parts.inputs):
        findings.problem(f"the file has {len(parts.inputs)} inputs, and was given {len(tensors)} tensors")
        return None
    return {name: array_of(tensor) for name, tensor in zip(parts.inputs, tensors, strict=True)}


def _outputs_of(net: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    with _eval_mode(net), torch.no_grad():
        leaves = _pytree.tree_leaves(net(*inputs, **kwargs))
    return [array_of(leaf) for leaf in leaves if isinstance(leaf, Tensor)]


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
