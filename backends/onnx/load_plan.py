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
from precc.slots import ACCUMULATOR, Role, Slot

__all__ = ["contradictions", "load_document", "load_plan", "model_document", "read_model", "sidecar_of"]

_PREFIX = f"{DOCUMENT_KEY}."
_ROLES = frozenset(role.value for role in Role)


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
    text = _json_text(path)
    if text is not None and f'"{DOCUMENT_FORMAT}"' not in text:
        with _naming(path):
            return PrecisionPlan.from_json(text)
    return load_document(path).plan


def load_document(path: str | Path) -> OnnxDocument:
    """What an exported file says of itself, or the JSON file beside it; the errors of `load_plan`."""
    text = _json_text(path)
    if text is not None:
        with _naming(path):
            return _agreeing(document_from_json(text))
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
        PlanError: it cannot be read, is no ONNX file, or the file with its data is not there or too short.
    """
    if _json_text(path) is not None:
        raise PlanError(f"{str(path)!r} is text, and no ONNX file, which is what is read here")
    onnx = imported("onnx", "onnx")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own class of error depends on its version
        raise PlanError(f"{str(path)!r} is no plan, which is JSON or in an ONNX file: {error}") from error
    if not model.ir_version or not model.HasField("graph"):
        raise PlanError(f"{str(path)!r} is no plan, which is JSON or in an ONNX file: what it holds has no graph")
    if weights:
        _load_data(model, Path(path))
    return model


def _load_data(model: Any, path: Path) -> None:
    """Read the tensors that lie in other files."""
    onnx = imported("onnx", "onnx")
    external = [own for own in model.graph.initializer if onnx.external_data_helper.uses_external_data(own)]
    entries = {entry.value for own in external for entry in own.external_data if entry.key == "location"}
    for name in sorted(entries):
        if not (path.parent / name).is_file():
            raise PlanError(f"{str(path)!r} has its tensors in {name!r}, which is not beside it: put it there again")
    for tensor in external:
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            onnx.numpy_helper.to_array(tensor)  # it is whole
        except Exception as error:  # of the file system, of onnx's checks, and of NumPy where bytes are missing
            names = " or ".join(map(repr, sorted(entries)))
            raise PlanError(
                f"{str(path)!r} has its tensors in {names}, which does not hold {tensor.name!r} as a whole: {error}"
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def model_document(model: Any, path: str | Path) -> OnnxDocument:
    """The document in the metadata of an ``onnx.ModelProto``.

    Raises:
        PlanError: it has none, or one that is malformed.
    """
    with _naming(path):
        metadata = _metadata(model, "the model")
        for node in _nodes(model):
            _metadata(node, f"the node {node.name!r}")
    if DOCUMENT_KEY not in metadata:
        raise PlanError(_lost(model, metadata, path))
    with _naming(path):
        return document_from_json(metadata[DOCUMENT_KEY])


def contradictions(model: Any, document: OnnxDocument) -> list[str]:
    """What nodes of an ``onnx.ModelProto``, or the places, say of their slots and the plan does not."""
    found = list(document.contradictions())
    for node in _nodes(model):
        found += _contradictions_of(node, _metadata(node, f"the node {node.name!r}"), document)
    return found


def _agreeing(document: OnnxDocument) -> OnnxDocument:
    for text in document.contradictions():
        raise PlanError(f"{text}: one of them was changed after the export")
    return document


def _metadata(owner: Any, what: str) -> dict[str, str]:
    """The entries of a model or a node, as text."""
    entries = {entry.key: entry.value for entry in owner.metadata_props}
    for pair in entries.items():
        if not all(isinstance(own, str) for own in pair):  # protobuf gives bytes where it finds no UTF-8
            raise PlanError(f"the metadata of {what} are damaged: {pair!r:.80} is no text")
    return entries


def _json_text(path: str | Path) -> str | None:
    """The text of a file, which may be JSON; None where it is none, as an ONNX file."""
    if not isinstance(path, (str, Path)):
        raise PlanError(f"the path of a plan is text or a Path, not {path!r}")
    try:
        with Path(path).open("rb") as file:
            if any(byte < 32 and byte not in b"\t\n\r" for byte in file.read(64)):
                return None
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    except (OSError, ValueError) as error:  # the latter of names that no file can have
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
        if op is None or not key.startswith(_PREFIX) or role not in _ROLES or not operand or "." in operand:
            continue  # or it is of somebody else
        slot = f"{op}/{role}.{operand}"
        expected = _said_of(Slot.parse(slot), document)
        if said != expected:
            yield f"the node {node.name!r} says that {slot} is {said}, the document that it is {expected}"


def _said_of(slot: Slot, document: OnnxDocument) -> str:
    """What a node is to say: the precision of its place, where a delayed scale is settled."""
    if slot.operand == ACCUMULATOR:
        return json.dumps(sums_to_json(document.plan.accumulator(slot.name)))
    place = document.places.get(slot.name)
    return str(document.plan.precision(slot.name) if place is None else place.rounding.precision)
