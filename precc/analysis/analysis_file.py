"""Analyses in files: torch's zip of tensors and plain data, read without running anything that is in it.

A frozen record is written as a dictionary with its class under ``""``; only those that are listed here are read.
"""

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precc.analysis.accumulator_sample import AccumulatorSample, AdjointTotals
from precc.analysis.batch_slice import BatchSlice
from precc.analysis.calibration import Calibration
from precc.analysis.component_conditions import ComponentConditions
from precc.analysis.condition import Condition
from precc.analysis.error_gains import ErrorGains, GainedNode
from precc.analysis.finding import Finding
from precc.analysis.findings import Findings
from precc.analysis.flips import FlipSample
from precc.analysis.loss_sums import LossSums
from precc.analysis.records import SlotRecord, SlotSensitivity
from precc.analysis.rounding_error import ScaleKey
from precc.analysis.sensitivities import Sensitivities
from precc.analysis.slot_sample import SlotAdjoints, Source, ValueSample
from precc.analysis.unknown_slots import UnknownDerivative, UnknownSlots
from precc.analysis.value_range import RangeLoss, ValueRange
from precc.errors import AnalysisError, PreccError
from precc.formats import Granularity
from precc.plan_json import precision_from_json, precision_to_json
from precc.precision import Precision
from precc.slots import Slot
from precc.source_places import Place

__all__ = ["read_analysis", "written_analysis"]

_FORMAT = "precc analysis 4"

_CLASSES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        AccumulatorSample,
        AdjointTotals,
        BatchSlice,
        ComponentConditions,
        Condition,
        ErrorGains,
        Finding,
        Findings,
        FlipSample,
        GainedNode,
        LossSums,
        Place,
        RangeLoss,
        ScaleKey,
        Sensitivities,
        SlotAdjoints,
        SlotRecord,
        SlotSensitivity,
        Source,
        UnknownDerivative,
        UnknownSlots,
        ValueRange,
        ValueSample,
    )
}

#: Fields that are written as float32 and read as float64: estimates, whose first digits count.
_SHORT = {
    "AccumulatorSample": ("loss", "gradient", "weights"),
    "FlipSample": ("ratios", "squares"),
    "LossSums": ("slopes", "curvatures", "lost", "moments", "squares"),
    "SlotAdjoints": ("loss", "gradient"),
    "ValueSample": ("weights",),
}

#: What reading a damaged or foreign file raises.
_DAMAGED = (
    PreccError,
    AssertionError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


def written_analysis(
    title: str,
    records: Mapping[str, SlotRecord],
    findings: Findings,
    seconds: float,
    batch: BatchSlice,
    calibration: Calibration,
) -> bytes:
    """The content of a file."""
    document = {
        "format": _FORMAT,
        "title": title,
        "records": _plain(dict(records)),
        "findings": _plain(findings),
        "seconds": seconds,
        "batch": _plain(batch),
        "calibration": calibration.to_json(),
    }
    file = io.BytesIO()
    torch.save(document, file)
    return file.getvalue()


def read_analysis(path: Path) -> tuple[str, dict[str, SlotRecord], Findings, float, BatchSlice, Calibration]:
    """What was given to `written_analysis`.

    Raises:
        AnalysisError: the file holds something else, or is damaged.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    try:
        damaged = zipfile.ZipFile(io.BytesIO(content)).testzip()  # torch does not look at checksums
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        document = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        if document["format"] != _FORMAT:
            raise ValueError(f"its format is {document['format']!r}, not {_FORMAT!r}")
        records, findings, batch = (_typed(document[name]) for name in ("records", "findings", "batch"))
        calibration = Calibration.from_json(document["calibration"])
        typed = isinstance(document["title"], str) and isinstance(findings, Findings) and isinstance(records, dict)
        typed = typed and isinstance(batch, BatchSlice)
        if not typed or not all(isinstance(own, SlotRecord) for own in records.values()):
            raise ValueError("its entries are not those of an analysis")
        return document["title"], records, findings, float(document["seconds"]), batch, calibration
    except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise AnalysisError(f"{str(path)!r} holds no analysis: it is no file that analysis.save wrote") from error
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AnalysisError(f"{str(path)!r} holds no analysis: {reason}") from error


def _plain(value: Any) -> Any:
    """Tensors, numbers, text, lists and dictionaries."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Slot):
        return {"": "Slot", "name": value.name}
    if isinstance(value, Precision):
        return {"": "Precision", "json": precision_to_json(value)}
    if isinstance(value, Enum):
        return {"": "Granularity", "value": value.value}
    if isinstance(value, Mapping):
        return {"": "pairs", "pairs": [[_plain(key), _plain(own)] for key, own in value.items()]}
    if is_dataclass(value):
        kind = type(value).__name__
        entries = {own.name: getattr(value, own.name) for own in fields(value)}
        short = {name: entries[name].float() for name in _SHORT.get(kind, ()) if entries[name] is not None}
        return {"": kind, **{name: _plain(own) for name, own in {**entries, **short}.items()}}
    if isinstance(value, (tuple, list)):
        return [_plain(own) for own in value]
    return value


def _typed(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_typed(own) for own in value)
    if not isinstance(value, dict):
        return value
    kind = value[""]
    if kind == "pairs":
        return {_typed(key): _typed(own) for key, own in value["pairs"]}
    if kind == "Slot":
        return Slot.parse(value["name"])
    if kind == "Precision":
        return precision_from_json(value["json"])
    if kind == "Granularity":
        return Granularity(value["value"])
    long = {name: value[name].double() for name in _SHORT.get(kind, ()) if value[name] is not None}
    value = {**value, **long}
    return _CLASSES[kind](**{name: _typed(own) for name, own in value.items() if name})
