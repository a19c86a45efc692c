"""Whether the entries of an analysis that was read fit together: signs, sizes, and the names by which they go.

What `save` wrote does. A file that somebody edited may not, and its error is told here, by the entry, and not where a
plan is chosen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from precc.analysis.accumulator_sample import AccumulatorSample
from precc.analysis.component_conditions import ComponentConditions
from precc.analysis.findings import Findings
from precc.analysis.loss_sums import LossSums
from precc.analysis.records import SlotRecord
from precc.analysis.sensitivities import Sensitivities
from precc.analysis.slot_sample import SlotAdjoints, ValueSample
from precc.analysis.typed_document import require
from precc.condition_numbers import ACTIVATIONS
from precc.slots import names_result

__all__ = ["check_entries"]

#: Numbers that are not signed, by name of their field, in whatever class; NaN stands where a step is not finite.
_UNSIGNED = {
    *("amax", "amin", "by_size", "displacements", "drawn", "elements", "exact_probes", "gradient_norm", "line"),
    *("mean_square", "multiply_adds", "nonfinite", "of", "outputs", "overflow", "ratios", "rows", "squares", "terms"),
    *("underflow", "unit", "weights", "zeros"),
}

#: Dimensions of tensors by class and field: s samples, t terms, p probes, d draws, m magnitudes. One letter is one size
#: in a record, and p and d are those of the analysis.
_SHAPES: dict[str, dict[str, str]] = {
    "AccumulatorSample": {
        **{"positions": "s", "left": "st", "right": "st", "weights": "s"},
        **{"loss": "s", "gradient": "ps", "curvature": "s"},
    },
    "FlipSample": {"ratios": "f", "squares": "pf"},
    "LossSums": {
        **{"numbers": "m", "slopes": "m", "curvatures": "dm"},
        **{"lost": "m", "moments": "m", "squares": "m"},
    },
    "SlotAdjoints": {"loss": "s", "gradient": "ps", "amax": "s"},
    "Sensitivities": {"traces": "p"},
    "ValueSample": {"values": "s", "weights": "s", "amax": ""},
}

_OF_ALL = "pd"

#: Of whole numbers; all others have fractions.
_WHOLE = {("AccumulatorSample", "positions"), ("LossSums", "numbers")}

#: As `precc.analysis.loss_sums` numbers magnitudes.
_MAGNITUDES = 1 << 13

_MOST = 1e150  # squares of what is finite are finite
_FREE = ("Condition", "ComponentConditions", "SlotSensitivity", "ValueRange")  # nothing squares these
_QUANTILES = 65


def check_entries(records: Mapping[str, SlotRecord], findings: Findings) -> None:
    """Refuse entries that do not fit together.

    Raises:
        AnalysisError: the message names the entry.
    """
    for where, own in (("records", records), ("findings", findings)):
        for place, kind, name, value in _entries(own, where):
            _check_sign(place, kind, name, value)
    for place, components in findings.components.items():
        _check_components(components, f"findings.components[{place!r}]")
    for k, node in enumerate(findings.gains.nodes):
        require(bool(node.arguments), f"findings.gains.nodes[{k}].arguments", node.arguments, "one or more")
    _check_records(records)
    _check_sensitivities(findings.sensitivities, records)


def _entries(own: Any, where: str, kind: str = "", name: str = "") -> Iterator[tuple[str, str, str, Any]]:
    """Numbers and tensors, with their place, class and field."""
    if is_dataclass(own):
        for entry in fields(own):
            yield from _entries(getattr(own, entry.name), f"{where}.{entry.name}", type(own).__name__, entry.name)
    elif isinstance(own, Mapping):
        for key, value in own.items():
            yield from _entries(value, f"{where}[{key!r}]" if isinstance(key, str) else where, kind, name)
    elif isinstance(own, tuple):
        for k, value in enumerate(own):
            yield from _entries(value, f"{where}[{k}]", kind, name)
    else:
        yield where, kind, name, own


def _check_sign(where: str, kind: str, name: str, value: Any) -> None:
    unsigned = name in _UNSIGNED or (kind, name) == ("GainedNode", "arguments")
    if isinstance(value, Tensor):
        require(not unsigned or not bool((value < 0).any()), where, value, "without negative numbers")
    elif type(value) in (int, float):
        require(not unsigned or not value < 0, where, value, "a number of at least 0")
        require(kind in _FREE or not _MOST < abs(value) < float("inf"), where, value, "a number up to 1e150")


def _check_components(own: ComponentConditions, where: str) -> None:
    require(own.activation in ACTIVATIONS, f"{where}.activation", own.activation, f"one of {', '.join(ACTIVATIONS)}")
    require(len(own.quantiles) == _QUANTILES, f"{where}.quantiles", own.quantiles, f"{_QUANTILES} numbers")


def _check_records(records: Mapping[str, SlotRecord]) -> None:
    operands: dict[str, list[str]] = {}
    for name, own in records.items():
        require(own.slot.name == name, f"records[{name!r}].slot", own.slot.name, "the slot by whose name it goes")
        if own.sensitivity is not None and not own.slot.is_result:
            operands.setdefault(name.rpartition(".")[0], []).append(name)
    for product, names in operands.items():
        first = records[names[0]]
        for name in names[1:]:
            for entry in ("multiply_adds", "outputs"):
                value, other = getattr(records[name], entry), getattr(first, entry)
                require(value == other, f"records[{name!r}].{entry}", value, f"{other}, as {names[0]} has")
        known = first.slot.accumulators == () or len(names) == 2
        require(known, "records", names, f"both operands of {product}")


def _check_sensitivities(own: Sensitivities, records: Mapping[str, SlotRecord]) -> None:
    where = "findings.sensitivities"
    sizes: dict[str, int] = {}  # those of the first record hold for all
    wanted = {name for name, record in records.items() if record.sensitivity is not None}
    for k, sample in enumerate(own.samples):
        _check_sample(sample, f"{where}.samples[{k}]", sizes, wanted)
    there = [slot.name for sample in own.samples for slot in sample.slots]
    require(
        len(there) == len(wanted) and set(there) == wanted, f"{where}.samples", there, "samples of each operand once"
    )
    for k, sums in enumerate(own.sums):
        _check_sums(sums, f"{where}.sums[{k}]", sizes, records)
    for k, flip in enumerate(own.flips):
        _check_shapes(flip, f"{where}.flips[{k}]", sizes)
    for name, trace in own.traces.items():
        _check_tensor(f"{where}.traces[{name!r}]", "Sensitivities", "traces", trace, sizes)
    require(own.exact_probes <= own.probes, f"{where}.exact_probes", own.exact_probes, f"at most {own.probes} probes")


def _check_sample(own: ValueSample, where: str, sizes: dict[str, int], operands: set[str]) -> None:
    found = _check_shapes(own, where, sizes)
    require(bool(own.slots), f"{where}.slots", own.slots, "the slots that read the values")
    require(
        found["s"] <= own.elements, f"{where}.elements", own.elements, f"at least the {found['s']} that are sampled"
    )
    for k, slot in enumerate(own.slots):
        _check_slot(slot, f"{where}.slots[{k}]", found, operands)


def _check_slot(own: SlotAdjoints, where: str, sizes: dict[str, int], operands: set[str]) -> None:
    require(own.name in operands, f"{where}.name", own.name, "a slot with a record")
    if own.source is not None:
        known = own.source.slot in operands and names_result(own.source.slot)
        require(known, f"{where}.source.slot", own.source.slot, "a result with a record")
    _check_shapes(own, where, sizes)
    for key, amax in own.amax.items():
        _check_tensor(f"{where}.amax[{key}]", "SlotAdjoints", "amax", amax, dict(sizes))
    require((own.sums is None) == (own.loss is None), f"{where}.sums", own.sums, "there where the loss is")
    if own.sums is not None:
        _check_shapes(own.sums, f"{where}.sums", sizes)
        _check_magnitudes(own.sums, f"{where}.sums.numbers")


def _check_magnitudes(own: LossSums, where: str) -> None:
    numbers = own.numbers
    inside = bool(((numbers >= 0) & (numbers < _MAGNITUDES)).all())
    require(inside and bool((numbers.diff() > 0).all()), where, numbers, f"ascending numbers below {_MAGNITUDES}")


def _check_sums(own: AccumulatorSample, where: str, sizes: dict[str, int], records: Mapping[str, SlotRecord]) -> None:
    found = _check_shapes(own, where, sizes)
    require(len(own.gradient_totals) == sizes["p"], f"{where}.gradient_totals", own.gradient_totals, "one a probe")
    require(
        found["s"] <= own.elements, f"{where}.elements", own.elements, f"at least the {found['s']} that are sampled"
    )
    for entry, name in (("name", own.name), *((f"slots[{k}]", slot) for k, slot in enumerate(own.slots))):
        is_operand = name in records and records[name].sensitivity is not None
        require(name in records and is_operand == (entry != "name"), f"{where}.{entry}", name, "such a slot")


def _check_shapes(own: Any, where: str, sizes: dict[str, int]) -> dict[str, int]:
    """Of the tensors of a record; the sizes, with its own. New ones of the whole analysis are noted."""
    kind, found = type(own).__name__, dict(sizes)
    for name in _SHAPES[kind]:
        value = getattr(own, name)
        if isinstance(value, Tensor):
            _check_tensor(f"{where}.{name}", kind, name, value, found)
    sizes.update({letter: size for letter, size in found.items() if letter in _OF_ALL})
    return found


def _check_tensor(where: str, kind: str, name: str, value: Tensor, sizes: dict[str, int]) -> None:
    letters = _SHAPES[kind][name]
    pairs = [*zip(letters, value.shape, strict=False)]
    known = value.dim() == len(letters) and all(sizes.setdefault(letter, size) == size for letter, size in pairs)
    wanted = ", ".join(str(sizes.get(letter, "any")) for letter in letters)
    require(known, where, value, f"one of ({wanted})")
    fractions = (kind, name) not in _WHOLE
    require(value.is_floating_point() == fractions, where, value, f"one of {'real' if fractions else 'whole'} numbers")
