"""The work of an analysed step, for cost models."""

from precc.analysis.analysis import Analysis
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.slots import Role, Slot

__all__ = ["step_work"]


def step_work(analysis: Analysis, *, inference: bool = False) -> StepWork:
    """Its products, and the tensors that they read; of the forward alone, with the weights and activations there."""
    products: dict[tuple[str, Role], list[Slot]] = {}
    for name in analysis.operands:
        slot = analysis.records[name].slot
        if slot.role is Role.FPROP or not inference:
            products.setdefault((slot.op, slot.role), []).append(slot)
    return StepWork(tuple(_product(analysis, own) for own in products.values()), _tensors(analysis, inference))


def _product(analysis: Analysis, slots: list[Slot]) -> ProductWork:
    records = [analysis.records[slot.name] for slot in slots]
    elements = tuple(own.value_range.elements for own in records)
    return ProductWork(tuple(slots), elements, records[0].multiply_adds, records[0].outputs)


def _tensors(analysis: Analysis, inference: bool) -> tuple[TensorWork, ...]:
    found = []
    for sample in analysis.findings.sensitivities.samples:
        slots = [analysis.records[own.name].slot for own in sample.slots]
        kept = tuple(slot for slot in slots if slot.role is Role.FPROP or not inference)
        found += [TensorWork(kept, sample.elements)] * bool(kept)
    return tuple(found)
