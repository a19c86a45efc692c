"""The work of an analysed step, for cost models."""

from collections.abc import Sequence
from dataclasses import replace

from precc.analysis.analysis import Analysis
from precc.analysis.records import SlotRecord
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.formats import format_of_dtype
from precc.precision import Precision
from precc.slots import Role, Slot

__all__ = ["step_work"]


def step_work(analysis: Analysis, *, inference: bool = False, results: bool = False) -> StepWork:
    """Its products, and the tensors that they read.

    Args:
        analysis: of the step.
        inference: of the forward alone, with the weights and activations there.
        results: with the results that have slots; operands that show one are of the same tensor.
    """
    key = (step_work, inference, results)
    return analysis.once(key, lambda: _step_work(analysis, inference, results))


def _step_work(analysis: Analysis, inference: bool, results: bool) -> StepWork:
    products: dict[tuple[str, Role], list[Slot]] = {}
    for name in analysis.operands:
        slot = analysis.records[name].slot
        if slot.role is Role.FPROP or not inference:
            products.setdefault((slot.op, slot.role), []).append(slot)
    tensors = _tensors(analysis, inference, results)
    return StepWork(tuple(_product(analysis, own) for own in products.values()), tensors)


def _product(analysis: Analysis, slots: list[Slot]) -> ProductWork:
    records = [analysis.records[slot.name] for slot in slots]
    elements = tuple(own.value_range.elements for own in records)
    return ProductWork(tuple(slots), elements, records[0].multiply_adds, records[0].outputs)


def _tensors(analysis: Analysis, inference: bool, results: bool) -> tuple[TensorWork, ...]:
    found: dict[object, TensorWork] = {}
    for sample in analysis.findings.sensitivities.samples:
        records = [analysis.records[own.name] for own in sample.slots]
        kept = [own for own in records if own.slot.role is Role.FPROP or not inference]
        slots = tuple(own.slot for own in kept if results or not own.slot.is_result)
        key = _tensor_of(records) if results else sample
        fmt = format_of_dtype(sample.values.dtype)
        before = found.get(key, TensorWork((), sample.elements, own=Precision("float32" if fmt is None else fmt)))
        saved = before.saved or any(own.saved for own in kept)
        found[key] = replace(before, slots=(*before.slots, *slots), saved=saved and results)
    return tuple(own for own in found.values() if own.slots)


def _tensor_of(records: Sequence[SlotRecord]) -> str:
    """The name of the result that their slots store or show, or else of the first of them."""
    sources = [own.source.slot for own in records if own.source is not None]
    results = [own.slot.name for own in records if own.slot.is_result]
    return next(iter((*results, *sources, records[0].slot.name)))
