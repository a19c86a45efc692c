"""Read the plan back from an exported file, or from what lies beside it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from precc.backends.onnx.document import OnnxDocument
from precc.backends.onnx.document_json import DOCUMENT_FORMAT, document_from_json
from precc.backends.onnx.node_metadata import DOCUMENT_KEY
from precc.backends.onnx.write_model import SIDECAR
from precc.errors import PlanError
from precc.extras import imported
from precc.plan import PrecisionPlan
from precc.plan_json import sums_to_json
from precc.slots import ACCUMULATOR, Slot

__all__ = ["contradictions", "load_document", "load_plan", "model_document", "read_model", "sidecar_of"]

_PREFIX = f"{DOCUMENT_KEY}."


def load_plan(path: str | Path) -> PrecisionPlan:
    """The plan, backward included, that a file holds.

    Args:
        path: of an ONNX file that `precc.export_onnx` wrote, also after tools that keep the metadata of the model; of
            the JSON file beside it; or of a plan's own JSON file.

    Raises:
        PlanError: the file cannot be read, or is none of these; or nodes of the graph have other precisions than the
            plan. The message names the file.
        ExtraError: it is an ONNX file, and the extra 'onnx' is not installed.
    """
    text = _json_text(Path(path))
    if text is not None and f'"{DOCUMENT_FORMAT}"' not in text:
        with _naming(path):
            return PrecisionPlan.from_json(text)
    return load_document(path).plan


def load_document(path: str | Path) -> OnnxDocument:
    """What an exported file says of itself, or the JSON file beside it; the errors of `load_plan`."""
    text = _json_text(Path(path))
    if text is not None:
        with _naming(path):
            return document_from_json(text)
    model = read_model(path)
    document = model_document(model, path)
    with _naming(path):
        if found := contradictions(model, document):
            raise PlanError(f"{found[0]}: one of them was changed after the export")
    return document


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Name the file in errors of what it holds."""
    try:
        yield
    except PlanError as error:
        raise PlanError(f"{str(path)!r}: {error}") from error


def sidecar_of(path: str | Path) -> Path:
    """The JSON file beside an exported one.

    >>> sidecar_of("net.onnx").name
    'net.onnx.precc.json'
    """
    return Path(f"{path}{SIDECAR}")


def read_model(path: str | Path, *, weights: bool = False) -> Any:
    """An ``onnx.ModelProto``; data in other files is read where `weights` are asked for.

    Raises:
        PlanError: it is no ONNX file.
    """
    onnx = imported("onnx", "onnx")
    try:
        model = onnx.load(str(path), load_external_data=weights)
    except OSError:
        raise
    except Exception as error:  # protobuf's own class of error depends on its version
        raise PlanError(f"{str(path)!r} is no plan, which is JSON or in an ONNX file: {error}") from error
    if not model.ir_version or not model.HasField("graph"):
        raise PlanError(f"{str(path)!r} is no plan, which is JSON or in an ONNX file: what it holds has no graph")
    return model


def model_document(model: Any, path: str | Path) -> OnnxDocument:
    """The document in the metadata of an ``onnx.ModelProto``.

    Raises:
        PlanError: it has none, or one that is malformed.
    """
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if DOCUMENT_KEY not in metadata:
        raise PlanError(_lost(model, metadata, path))
    with _naming(path):
        return document_from_json(metadata[DOCUMENT_KEY])


def contradictions(model: Any, document: OnnxDocument) -> list[str]:
    """What nodes of an ``onnx.ModelProto`` say of their slots and the document does not."""
    found: list[str] = []
    for node in _nodes(model):
        found += _contradictions_of(node, {entry.key: entry.value for entry in node.metadata_props}, document)
    return found


def _json_text(path: Path) -> str | None:
    """The text of a file, which may be JSON; None where it is none, as an ONNX file."""
    try:
        with path.open("rb") as file:
            if any(byte < 32 and byte not in b"\t\n\r" for byte in file.read(64)):
                return None
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise PlanError(f"cannot read the plan {str(path)!r}: {error}") from error


def _lost(model: Any, metadata: dict[str, str], path: str | Path) -> str:
    made_by = f"{model.producer_name or 'an unnamed tool'} {model.producer_version}".strip()
    keys = ", ".join(sorted(metadata)) or "nothing"
    reason = f"the metadata of {str(path)!r} have no entry {DOCUMENT_KEY!r} (made by {made_by}; they hold {keys})"
    if sidecar_of(path).exists():
        return f"{reason}: a tool has dropped it; to take the plan that was exported: {str(sidecar_of(path))!r}"
    return f"{reason}: the file is not of precc.export_onnx, or a tool has dropped them"


def _nodes(model: Any) -> Iterator[Any]:
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def _contradictions_of(node: Any, metadata: dict[str, str], document: OnnxDocument) -> Iterator[str]:
    op = metadata.get(f"{_PREFIX}op")
    for key, said in metadata.items():
        role, _, operand = key.removeprefix(_PREFIX).partition(".")
        if op is None or not key.startswith(_PREFIX) or not operand or "." in operand:
            continue
        slot = f"{op}/{role}.{operand}"
        expected = _said_of(Slot.parse(slot), document)
        if said not in expected:
            yield f"the node {node.name!r} says that {slot} is {said}, the document that it is {expected[0]}"


def _said_of(slot: Slot, document: OnnxDocument) -> tuple[str, ...]:
    """What a node may say: the precision that the plan names, or what became of a delayed scale."""
    if slot.operand == ACCUMULATOR:
        return (json.dumps(sums_to_json(document.plan.accumulator(slot.name))),)
    place = document.places.get(slot.name)
    settled = () if place is None else (str(place.rounding.precision),)
    return *settled, str(document.plan.precision(slot.name))
