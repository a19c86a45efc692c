"""Whether an exported graph has the slots that a plan names, and those of the graphs that the net itself has run."""

from precc.annotations import products_of, unrounded_of
from precc.backends.onnx.traced_net import TracedNet
from precc.errors import PlanError
from precc.module import PrecisionModule, session_of
from precc.slot_checks import brought_slots, slot_names
from precc.slots import Role, Slot
from precc.warn_caller import warn_caller

__all__ = ["check_coverage"]

#: Of slots, so many are named.
_NAMED = 5


def check_coverage(net: PrecisionModule, traced: TracedNet) -> None:
    """Refuse a plan of another model, and an export that loses roundings; tell what the net has run and this has not.

    Slots of the backward, of updates, and of modules that are not compiled are not meant.

    Raises:
        PlanError: the plan names slots that are none of the net; or a product that has slots in the net's own graphs
            has none here.
    """
    _check_layers(net, traced)
    session = session_of(net)
    plan, own = session.plan, _slots_of(traced)
    named = {name for name in (*plan.slots, *plan.accumulators) if _is_meant(name, net)}
    brought = brought_slots(plan.multiply_adds, net)
    if strange := sorted(named - own - slot_names(session.graphs.known) - brought):
        raise PlanError(
            f"the plan names {_some(strange)}, which the exported graph has not: is it of another model? Its slots "
            f"are {', '.join(sorted(own)[:_NAMED]) or 'none'}, ..."
        )
    run = {slot.name for graph in session.graphs.known for slot in graph.slots if slot.role is Role.FPROP}
    lost = sorted((run | {name for name in named & brought if _is_operand(name)}) - own)
    if lost:
        _tell_lost(lost, traced)


def _check_layers(net: PrecisionModule, traced: TracedNet) -> None:
    """Whether what is taken for a product outside of what is compiled is one."""
    paths = {path for path, _ in net.named_modules()}
    products = (product for _, product in products_of(traced.program.graph_module.graph))
    if strange := sorted(product.op for product in products if product.operands[0].slot.layer not in paths):
        raise PlanError(
            f"torch.export sees {len(strange)} product(s), such as {strange[0]!r}, of no module of the net: "
            "no slots are known there"
        )


def _tell_lost(lost: list[str], traced: TracedNet) -> None:
    text = f"the exported graph has not {_some(lost)}"
    reasons = {record.layer: record.reason for _, record in unrounded_of(traced.program.graph_module.graph)}
    hidden = [name for name in lost if Slot.parse(name).layer in reasons]
    if hidden:
        raise PlanError(
            f"{text}: {reasons[Slot.parse(hidden[0]).layer]}; write the product as torch.matmul or a linear layer"
        )
    warn_caller(f"{text}: the forward in eval mode, with these inputs, does not run these products")


def _slots_of(traced: TracedNet) -> set[str]:
    products = (product for _, product in (*traced.products, *traced.attention))
    operands = {operand.slot for product in products for operand in product.operands}
    results = {result.slot.name for _, result, _ in traced.results}
    return results | {own.name for slot in operands for own in (slot, *slot.accumulators)}


def _is_meant(name: str, net: PrecisionModule) -> bool:
    slot = Slot.parse(name)
    outside = {path for path, _ in net.named_modules()} - session_of(net).graphs.modules(net)
    return slot.role is Role.FPROP and slot.layer not in outside


def _is_operand(name: str) -> bool:
    slot = Slot.parse(name)
    return slot not in (slot.result, slot.accumulator)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} slot(s), {', '.join(map(repr, names[:_NAMED]))}{more}"
