"""Analyses in files: torch's zip of tensors and plain data, read without running anything that is in it.

A frozen record is written as a dictionary with its class under ``""``, and read as the type that stands in its place.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precc.analysis.batch_slice import BatchSlice
from precc.analysis.calibration import Calibration
from precc.analysis.file_checks import check_entries
from precc.analysis.findings import Findings
from precc.analysis.records import SlotRecord
from precc.analysis.typed_document import SHORT, read_as, require
from precc.errors import AnalysisError, PreccError
from precc.plan_json import precision_to_json
from precc.precision import Precision
from precc.slots import Slot

__all__ = ["read_analysis", "written_analysis"]

_FORMAT = "precc analysis 4"

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

#: The entries of a document, with their types; the calibration has a form of its own.
_ENTRIES: dict[str, Any] = {
    "title": str,
    "records": Mapping[str, SlotRecord],
    "findings": Findings,
    "seconds": float,
    "batch": BatchSlice,
}


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


def read_analysis(path: Path) -> tuple[str, Mapping[str, SlotRecord], Findings, float, BatchSlice, Calibration]:
    """What was given to `written_analysis`.

    Raises:
        AnalysisError: the file holds something else, is damaged, or was edited and does not fit; the message names the
            entry.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    try:
        damaged = zipfile.ZipFile(io.BytesIO(content)).testzip()  # torch does not look at checksums
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        document = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        if _entry(document, "format") != _FORMAT:
            raise ValueError(f"its format is {document['format']!r:.60}, not {_FORMAT!r}")
        own = {name: read_as(hint, _entry(document, name), name) for name, hint in _ENTRIES.items()}
        require(0 <= own["seconds"] < math.inf, "seconds", own["seconds"], "a number of at least 0")
        require(0 <= own["batch"].rows <= own["batch"].of, "batch.rows", own["batch"].rows, "a part of the batch")
        check_entries(own["records"], own["findings"])
        return (*own.values(), Calibration.from_json(_entry(document, "calibration")))
    except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise AnalysisError(f"{str(path)!r} holds no analysis: it is no file that analysis.save wrote") from error
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AnalysisError(f"{str(path)!r} holds no analysis: {reason}") from error


def _entry(document: Any, name: str) -> Any:
    if not isinstance(document, dict) or name not in document:
        raise AnalysisError(f"it has no entry {name!r}")
    return document[name]


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
        short = {name: entries[name].float() for name in SHORT.get(kind, ()) if entries[name] is not None}
        return {"": kind, **{name: _plain(own) for name, own in {**entries, **short}.items()}}
    if isinstance(value, (tuple, list)):
        return [_plain(own) for own in value]
    return value
