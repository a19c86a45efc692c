"""The slots of a net as rows of a report."""

from collections.abc import Iterator

from precc.accumulation.sums import Sums
from precc.accumulation.two_passes import TwoPasses
from precc.analysis.analysis import Analysis
from precc.analysis.records import SlotRecord
from precc.annotations import Operand, Product
from precc.captured_graph import size_value
from precc.precision import Precision
from precc.report.net_parts import NetFacts, NetParts
from precc.report.precision_band import precision_band
from precc.report.slot_row import Band, SlotRow, SlotValues
from precc.report.step_errors import StepErrors
from precc.slots import Slot

__all__ = ["slot_rows"]


def slot_rows(net: NetFacts, parts: NetParts, analysis: Analysis | None, errors: StepErrors) -> tuple[SlotRow, ...]:
    """All operands; of sums and results those that the plan rounds.

    Args:
        net: whose slots they are.
        parts: of it.
        analysis: of its step, with what is known of the values.
        errors: of slots.
    """
    known = _Known(net, analysis, errors)
    rows = [row for product in parts.products for row in _of_product(product, known)]
    return (*rows, *(known.result(own, 0) for own in parts.additions if own.is_rounded(net.plan)))


def _of_product(product: Product, known: "_Known") -> Iterator[SlotRow]:
    work = size_value(product.multiply_adds, {})
    for operand in product.operands:
        yield known.operand(operand, work)
    sums = product.sums(known.net.plan)
    if sums is not None:
        yield known.sums(product.accumulators[0], sums, work)
    if product.result is not None and product.result.is_rounded(known.net.plan):
        yield known.result(product.result, work)


class _Known:
    """What there is to say of the slots of a net."""

    def __init__(self, net: NetFacts, analysis: Analysis | None, errors: StepErrors) -> None:
        self.net = net
        self.records = {} if analysis is None else analysis.records
        self.errors = errors

    def operand(self, own: Operand, work: int) -> SlotRow:
        """Of an operand, as it is computed."""
        return self._value(own, own.computed_in(self.net.plan), work)

    def result(self, own: Operand, work: int) -> SlotRow:
        """Of what is stored."""
        return self._value(own, self.net.plan.precision(own.slot.name), work)

    def sums(self, slot: Slot, own: Sums, work: int) -> SlotRow:
        """Of a running sum; of two passes the format of the first one."""
        accumulator = own.low.accumulator if isinstance(own, TwoPasses) else own
        name, bits = accumulator.format.name, float(accumulator.format.bits)
        return self._row(slot, (str(own), name, bits, True), work, None, None)

    def _value(self, own: Operand, precision: Precision, work: int) -> SlotRow:
        rounded = own.is_rounded(self.net.plan)
        record = self.records.get(own.slot.name)
        said = (str(precision), precision.format.name, float(precision.bits), rounded)
        values = None if record is None else _values(record, precision if rounded else None)
        return self._row(own.slot, said, work, values, self._band(own, precision, values) if rounded else None)

    def _band(self, own: Operand, precision: Precision, values: SlotValues | None) -> Band | None:
        if values is None or precision.transform is not None:
            return None
        recorded = self.net.largest(own.slot.name, precision.history) if precision.history else 0.0
        return precision_band(precision, values.amax, own.dtype, recorded)

    def _row(
        self, slot: Slot, said: tuple[str, str, float, bool], work: int, values: SlotValues | None, band: Band | None
    ) -> SlotRow:
        record = self.records.get(slot.name)
        kappa = None if record is None else record.condition
        median, p99 = (None, None) if kappa is None else (kappa.median, kappa.p99)
        errors = self.errors.predicted.get(slot.name), self.errors.measured.get(slot.name)
        return SlotRow(slot, *said, work, values, band, median, p99, *errors)


def _values(record: SlotRecord, precision: Precision | None) -> SlotValues:
    """The values of a slot, with what its precision loses of them, if that was counted; None: nothing is rounded."""
    own = record.value_range
    lost = None if precision is None else own.losses.get(precision)
    shares = (None, None) if lost is None else (lost.underflow_share, lost.overflow_share)
    return SlotValues(own.elements, own.zeros, own.nonfinite, own.amax, own.amin, own.histogram, *shares)
