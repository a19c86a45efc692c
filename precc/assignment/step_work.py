"""The work of an analysed step, for cost models."""

from dataclasses import replace

from precc.analysis.analysis import Analysis
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.slots import Role, Slot

__all__ = ["step_work"]


def step_work(analysis: Analysis, *, inference: bool = False) -> StepWork:
    """Its products, and the tensors that they read; and, if the analysis has results, those that are stored.

    An operand that shows a result is of the same tensor.

    Args:
        analysis: of the step.
        inference: of the forward alone, with the weights and activations there.
    """
    return analysis.once((step_work, inference), lambda: _step_work(analysis, inference))


def _step_work(analysis: Analysis, inference: bool) -> StepWork:
    products: dict[tuple[str, Role], list[Slot]] = {}
    for name in analysis.operands:
        slot = analysis.records[name].slot
        if slot.role is Role.FPROP or not inference:
            products.setdefault((slot.op, slot.role), []).append(slot)
    tensors = _tensors(analysis, inference)
    return StepWork(tuple(_product(analysis, own) for own in products.values()), tensors)


def _product(analysis: Analysis, slots: list[Slot]) -> ProductWork:
    records = [analysis.records[slot.name] for slot in slots]
    elements = tuple(own.value_range.elements for own in records)
    return ProductWork(tuple(slots), elements, records[0].multiply_adds, records[0].outputs)


def _tensors(analysis: Analysis, inference: bool) -> tuple[TensorWork, ...]:
    found: dict[str, TensorWork] = {}
    for sample in analysis.findings.sensitivities.samples:
        records = [analysis.records[own.name] for own in sample.slots]
        kept = [own for own in records if own.slot.role is Role.FPROP or not inference]
        slots = tuple(own.slot for own in kept)
        sources = {slot.name: own for slot in slots if (own := analysis.sources.get(slot.name)) is not None}
        key = next((own.slot for own in sources.values()), sample.slots[0].name)
        before = found.get(key, TensorWork((), sample.elements, dtype=sample.values.dtype))
        found[key] = replace(
            before,
            slots=(*before.slots, *slots),
            saved=before.saved or any(own.saved for own in kept),
            sources={**before.sources, **sources},
        )
    every = [own for own in found.values() if own.slots]
    return (*every, *(_again(own) for own in every if own.sources))


def _again(tensor: TensorWork) -> TensorWork:
    """The copies of operands that show a result, and are rounded again."""
    slots = tuple(slot for slot in tensor.slots if slot.name in tensor.sources)
    return replace(tensor, slots=slots, saved=False, again=True)
