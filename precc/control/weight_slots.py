"""Which slots round a weight and what it meets: the products of the layers that hold a parameter."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from precc.module import PrecisionModule
from precc.plan import PrecisionPlan
from precc.slots import Role, Slot

__all__ = ["WeightSlots", "weights_in"]


@dataclass(frozen=True, slots=True)
class WeightSlots:
    """Of one weight tensor, over all modules that hold it and all their calls.

    Args:
        values: slots of weights and inputs.
        gradients: slots of gradients of outputs.
        multiply_adds: of the forward products.
    """

    values: tuple[str, ...]
    gradients: tuple[str, ...]
    multiply_adds: int


def weights_in(
    net: PrecisionModule, plan: PrecisionPlan, parameters: Mapping[str, Tensor]
) -> tuple[dict[str, WeightSlots], tuple[str, ...]]:
    """By name of the parameter, the slots of a resolved plan; and the products whose weight is none of them.

    A product ``<module>/product`` has the parameter ``<module>.weight``. Other weights, such as those that a module
    computes, or two of one module, are not known to be parameters.
    """
    names = {id(own): name for name, own in parameters.items()}
    modules: dict[str, nn.Module] = dict(net.named_modules())
    by_op: dict[str, list[Slot]] = {}
    for slot in map(Slot.parse, plan.slots):
        by_op.setdefault(slot.op, []).append(slot)
    found: dict[str, WeightSlots] = {}
    others = []
    for op, own in by_op.items():
        if not any(_of_forward_weight(slot) for slot in own):
            continue
        name = names.get(id(getattr(modules.get(own[0].layer), "weight", None)))
        if name is None:
            others.append(op)
        else:
            found[name] = _joined(found.get(name), own, plan)
    return found, tuple(others)


def _of_forward_weight(slot: Slot) -> bool:
    return slot.role is Role.FPROP and slot.operand == "weight"


def _joined(before: WeightSlots | None, slots: list[Slot], plan: PrecisionPlan) -> WeightSlots:
    values = tuple(slot.name for slot in slots if slot.operand in ("weight", "input"))
    gradients = tuple(slot.name for slot in slots if slot.operand == "grad_output")
    work = sum(plan.multiply_adds.get(slot.name, 0) for slot in slots if _of_forward_weight(slot))
    if before is None:
        return WeightSlots(values, gradients, work)
    return WeightSlots(before.values + values, before.gradients + gradients, before.multiply_adds + work)
