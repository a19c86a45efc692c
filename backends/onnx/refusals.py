"""What a flavor cannot express, slot by slot: an error that names all of it, before anything is written."""

from collections.abc import Mapping, Sequence

import torch

from precc.backends.onnx.flavors import Flavor
from precc.backends.onnx.slot_markers import Marker
from precc.backends.onnx.traced_net import TracedNet
from precc.errors import BackendError
from precc.plan import PrecisionPlan

__all__ = ["check_expressible"]

#: Of slots, so many are named in an error.
_NAMED = 5


def check_expressible(
    flavors: Sequence[Flavor], traced: TracedNet, markers: Mapping[str, Marker], plan: PrecisionPlan, opset: int
) -> dict[str, Flavor]:
    """By slot, the first of the flavors that can express its rounding.

    Raises:
        BackendError: none can; or a product rounds its sums, or is fused, and the flavor computes roundings.
    """
    first = flavors[0]
    found: dict[str, Flavor] = {}
    problems: dict[str, str] = {}
    for name, marker in markers.items():
        reasons = [_problem(own, marker, opset) for own in flavors]
        able = next((own for own, reason in zip(flavors, reasons, strict=True) if not reason), None)
        if able is None:
            problems[name] = reasons[0]
        else:
            found[name] = able
    if first.rounds:
        problems |= _sums(traced, plan) | _fused(traced, plan)
    if problems:
        raise BackendError(_message(first, problems))
    return found


def _problem(flavor: Flavor, marker: Marker, opset: int) -> str:
    if not (flavor.rounds and marker.is_rounded):
        return ""
    if marker.operand.dtype is not torch.float32:
        kind = str(marker.operand.dtype).removeprefix("torch.")
        return f"its values are {kind} tensors, and roundings are written for float32"
    if marker.weight is not None:
        return flavor.weight_problem(marker.weight, marker.rounding, opset)
    return flavor.problem(marker.rounding, opset)


def _sums(traced: TracedNet, plan: PrecisionPlan) -> dict[str, str]:
    """Accumulators that the plan rounds."""
    rounded = [own for _, product in traced.products if product.sums(plan) is not None for own in product.accumulators]
    return {slot.name: "no ONNX operator rounds its running sum" for slot in rounded}


def _fused(traced: TracedNet, plan: PrecisionPlan) -> dict[str, str]:
    """Operands of fused attention that the plan rounds: torch.onnx opens it, or not, by the opset."""
    operands = [operand for _, product in traced.attention for operand in product.operands]
    rounded = [operand for operand in operands if operand.is_rounded(plan)]
    return {operand.slot.name: "it is of fused attention, which has no one form in ONNX" for operand in rounded}


def _message(flavor: Flavor, problems: Mapping[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for slot, reason in problems.items():
        by_reason.setdefault(reason, []).append(slot)
    lines = []
    for reason, slots in by_reason.items():
        more = f" and {len(slots) - _NAMED} more" if len(slots) > _NAMED else ""
        lines.append(f"{', '.join(map(repr, slots[:_NAMED]))}{more}: {reason}")
    ways = ["flavor='annotate' (metadata alone)", "a plan or precc.Rule with another format there"]
    if flavor.name == "qdq":
        ways.insert(0, "unsupported='portable'")
    return (
        f"flavor {flavor.name!r} cannot express {len(problems)} slot(s): {'; '.join(lines)}. Take {', or '.join(ways)}"
    )
