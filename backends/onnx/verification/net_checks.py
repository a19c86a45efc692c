"""Whether an exported file is of a net and its plan: slots, precisions, dimensions of scales, constants by name."""

from collections.abc import Iterator

from torch import Tensor
from torch.fx import Node

from precc.annotations import Operand
from precc.backends.onnx.document import OnnxDocument, SlotPlace
from precc.backends.onnx.settled_scale import settled
from precc.backends.onnx.traced_net import TracedNet
from precc.backends.onnx.verification.findings import Findings
from precc.backends.onnx.verification.slot_graphs import ModelParts
from precc.backends.onnx.verification.tensor_arrays import array_of
from precc.extras import imported
from precc.module import PrecisionModule, session_of
from precc.slots import ATTENTION, Role

__all__ = ["check_captured", "check_constants", "check_net", "own_weights"]


def check_net(net: PrecisionModule, traced: TracedNet, document: OnnxDocument, findings: Findings) -> None:
    """Compare slots, precisions and dimensions with the traced forward, and the plan with the net's."""
    plan, largest = traced.plan(net), session_of(net).amax.largest
    nodes = dict(_slots(traced))
    rounded = {own.slot.name for _, own, _ in traced.results if own.is_rounded(plan)}
    slots = {own.slot.name for _, own in traced.operands} | rounded
    for slot in sorted(slots - set(document.places)):
        findings.problem(f"{slot}: a slot of the net that the file has not")
    for slot, place in document.places.items():
        if slot not in slots:
            findings.problem(f"{slot}: a slot of the file that the net has not")
            continue
        said = place.rounding.precision
        chosen = settled(plan.precision(slot), largest, slot, nodes[slot][0].dtype)
        if said != chosen:
            findings.problem(f"{slot}: {said} in the file, {chosen} in the net's plan")
        for reason in _other_dimensions(place, *nodes[slot]):
            findings.problem(f"{slot}: {reason}")
    if document.plan != plan:
        findings.problem(f"the plan of the file is not that of the net: {plan.diff(document.plan)!s:.200}")


def _slots(traced: TracedNet) -> Iterator[tuple[str, tuple[Operand, Node]]]:
    for node, operand in traced.operands:
        value = node.args[operand.position]
        assert isinstance(value, Node)
        yield operand.slot.name, (operand, value)
    for _, result, stored in traced.results:
        yield result.slot.name, (result, stored)


def _other_dimensions(place: SlotPlace, operand: Operand, value: Node) -> Iterator[str]:
    dims = len(value.meta["val"].shape)
    for name, own in (("axis", operand.contracted % dims), ("channel", operand.channel % dims)):
        if (said := getattr(place.rounding, name)) != own:
            yield f"the {name} is {said} in the file, {own} in the net"


def own_weights(traced: TracedNet) -> dict[str, Tensor]:
    """The net's own operands that depend on no input, by slot."""
    found = {}
    for node, operand in traced.operands:
        argument = node.args[operand.position]
        value = traced.constant(argument) if isinstance(argument, Node) else None
        if value is not None:
            found[operand.slot.name] = value.detach()
    return found


def check_captured(net: PrecisionModule, document: OnnxDocument, findings: Findings) -> None:
    """Compare with the graphs that the net itself has run in eval mode, of which torch.export knows nothing."""
    run = [graph for graph in session_of(net).graphs.known if not graph.training]
    own = {operand.slot for graph in run for product in graph.products for operand in product.operands}
    placed = (slot for slot in own if slot.role is Role.FPROP and slot.family != ATTENTION)
    for slot in sorted(slot.name for slot in placed):
        if slot not in document.places:
            findings.problem(f"{slot}: a slot of the net that the file has not")


def check_constants(traced: TracedNet, parts: ModelParts, findings: Findings) -> None:
    """Compare constants of the graph that have names of parameters and buffers with these, bit for bit."""
    onnx = imported("onnx", "onnx")
    held = {**traced.program.constants, **traced.program.state_dict}
    for name, tensor in parts.initializers.items():
        if isinstance(own := held.get(name), Tensor):
            expected, found = array_of(own), onnx.numpy_helper.to_array(tensor)
            if (expected.dtype, expected.shape) != (found.dtype, found.shape):
                findings.problem(
                    f"the constant {name!r} is {found.dtype}{list(found.shape)} in the file, "
                    f"{expected.dtype}{list(expected.shape)} in the net"
                )
            elif expected.tobytes() != found.tobytes():
                findings.problem(f"the constant {name!r} has other values in the file than in the net")
