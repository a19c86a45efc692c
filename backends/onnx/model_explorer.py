"""What an exported file says of its slots, as node data of Model Explorer (Google AI Edge).

Its ONNX adapter names a graph as the file does, and a node by its name. Here a graph has one number for each node that
computes a product or a sum, and one for each tensor that a rounding makes, which stands for the node that makes it.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from precc.backends.onnx.document import OnnxDocument, SlotPlace
from precc.backends.onnx.load_plan import model_document, read_model
from precc.backends.onnx.verification.slot_values import is_rounded
from precc.errors import PlanError, expected_one_of
from precc.files import write_whole

__all__ = ["model_explorer_data", "save_model_explorer_data"]

#: What is always known: storage bits of a value.
_BITS = "bits"

#: From the least to the most; for bits the other way round, as few are what an eye looks for.
_COLORS = ("#ffffff", "#fdd49e", "#d7301f")


def model_explorer_data(path: str | Path, what: str = "bits") -> dict[str, Any]:
    """A number for each node of an exported file, as Model Explorer reads it: by graph, ``results`` and ``gradient``.

    A node that computes a product has the largest of its slots, of bits the smallest.

    Args:
        path: of a file of `precc.export_onnx`.
        what: ``"bits"``: storage bits of a value; or a fact that the file has of slots, such as ``"condition"``.

    Raises:
        PlanError: the file cannot be read, is not one of precc's, or has no such facts; the message lists those that
            it has.
        ExtraError: the extra 'onnx' is not installed.
    """
    model = read_model(path)
    document = model_document(model, path)
    numbers = _numbers(document, what)
    made = _made(model)
    made = _made(model)
    results: dict[str, float] = {}
    choose = min if what == _BITS else max
    for slot, number in numbers.items():
        place = document.places[slot]
        for key in _keys(place, made):
            results[key] = choose(results.get(key, number), number)
    values = {key: {"value": number} for key, number in results.items()}
    colors = reversed(_COLORS) if what == _BITS else _COLORS
    return {model.graph.name or "<main>": {"results": values, "gradient": _gradient(colors)}}


def save_model_explorer_data(path: str | Path, out: str | Path, what: str = "bits") -> None:
    """Write that as a JSON file, whole or not at all; the errors of `model_explorer_data`."""
    text = json.dumps(model_explorer_data(path, what), indent=1, allow_nan=False)
    write_whole(Path(out), f"{text}\n".encode())


def _numbers(document: OnnxDocument, what: str) -> dict[str, float]:
    """By slot; those that are no finite numbers have no color."""
    if what == _BITS:
        return {slot: float(place.rounding.precision.bits) for slot, place in document.places.items()}
    known = {name for place in document.places.values() for name in place.facts}
    if not isinstance(what, str) or what not in known:
        raise PlanError(f"the file says nothing of {what!r}: {expected_one_of([_BITS, *sorted(known)])}")
    found: Mapping[str, float] = {slot: own.facts.get(what, math.nan) for slot, own in document.places.items()}
    return {slot: value for slot, value in found.items() if math.isfinite(value)}


def _made(model: Any) -> dict[str, str]:
    """The name of the node that makes a tensor, by that of the tensor."""
    return {output: node.name for node in model.graph.node for output in node.output if node.name}


def _keys(place: SlotPlace, made: Mapping[str, str]) -> Iterable[str]:
    yield place.node
    own = made.get(place.rounded)
    if is_rounded(place) and own is not None and own != place.node:
        yield own


def _gradient(colors: Iterable[str]) -> list[dict[str, Any]]:
    every = list(colors)
    return [{"stop": index / (len(every) - 1), "bgColor": color} for index, color in enumerate(every)]
