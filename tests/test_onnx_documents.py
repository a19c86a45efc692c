"""What an exported file says of itself: as JSON, and read back from files."""

import json
import math
from typing import Any

import pytest

from precc.backends.onnx.document import OnnxDocument, SlotPlace
from precc.backends.onnx.document_json import document_from_json, document_to_json
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.errors import PlanError
from precc.plan import PrecisionPlan
from precc.precision import Precision

WEIGHT, INPUT = "fc/product/fprop.weight", "fc/product/fprop.input"


def place(slot: str, precision: Precision, **changed: Any) -> SlotPlace:
    rounding = SlotRounding(slot, precision, axis=1, channel=0)
    entries = {"node": "MatMul_0", "result": False, "source": "x", "rounded": "x_rounded"}
    return SlotPlace(rounding=rounding, **{**entries, **changed})


def document(**changed: Any) -> OnnxDocument:
    precisions = {INPUT: Precision("e4m3", "nearest_away"), WEIGHT: Precision("int8", scaling="tensor")}
    places = {
        WEIGHT: place(WEIGHT, precisions[WEIGHT], source="", stored="INT8", facts={"condition": math.inf}),
        INPUT: place(INPUT, precisions[INPUT], facts={"sensitivity": 0.1, "predicted error": math.nan}),
    }
    entries = {"flavor": "portable", "opset": 21, "plan": PrecisionPlan("fp32", precisions), "places": places}
    return OnnxDocument(**{**entries, **changed})


def test_a_round_trip_is_exact() -> None:
    text = document_to_json(document())
    again = document_from_json(text)
    assert document_to_json(again) == text
    assert list(again.places) == [WEIGHT, INPUT]
    assert again.plan == document().plan
    assert again.plan.slots == document().plan.slots
    assert again.places[WEIGHT] == document().places[WEIGHT]
    assert math.isnan(again.places[INPUT].facts["predicted error"])
    assert again.places[INPUT].rounding.row is document().places[INPUT].rounding.row


def changed(entry: str, value: Any, slot: str = "") -> str:
    entries = json.loads(document_to_json(document()))
    (entries["places"][slot] if slot else entries)[entry] = value
    return json.dumps(entries)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no 'format' 'precc.onnx'"),
        ('{"precc_plan": 1}', "no 'format' 'precc.onnx'"),
        (changed("version", 2), "version 2; this precc reads version 1"),
        (changed("version", True), "version True"),
        (changed("flavour", "qdq"), "unknown entry 'flavour'"),
        (changed("flavor", "onnx"), "flavor 'onnx': expected one of 'portable', 'qdq', 'annotate'"),
        (changed("opset", "21"), "'opset' is '21', not a whole number"),
        (changed("places", []), "not an object by slot"),
        (changed("places", {"fc": {}}), "stands where|not '<module>|malformed"),
        (changed("plan", {}), "not a plan"),
        (changed("result", 1, INPUT), "'result' of 'fc/product/fprop.input' is 1"),
        (changed("source", None, INPUT), "'source' of 'fc/product/fprop.input' is None"),
        (changed("axis", 1.0, INPUT), "'axis' is 1.0"),
        (changed("facts", {"condition": None}, INPUT), "None stands where a number"),
        (changed("precision", "float9", INPUT), "float9"),
        ('{"format": "precc.onnx", "format": "precc.onnx"}', "names 'format' twice"),
        (json.dumps({"format": "precc.onnx", "version": 1}), "malformed: KeyError: 'flavor'"),
    ],
)
def test_what_is_no_document_is_refused(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        document_from_json(text)
