"""What an exported file says of itself: as JSON, and read back from files."""

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

import precc
from precc.backends.onnx.document import OnnxDocument, SlotPlace
from precc.backends.onnx.document_json import document_from_json, document_to_json
from precc.backends.onnx.load_plan import load_document, load_plan, read_model, sidecar_of
from precc.backends.onnx.model_explorer import model_explorer_data, save_model_explorer_data
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.errors import ExtraError, PlanError
from precc.plan import PrecisionPlan
from precc.precision import Precision
from tests.mixed_net import mixed_inputs, mixed_net, mixed_plan

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
        (changed("places", {"fc": {}}), "not '<module>"),
        (changed("plan", {}), "not a plan"),
        (changed("result", 1, INPUT), "'result' of 'fc/product/fprop.input' is 1"),
        (changed("source", None, INPUT), "'source' of 'fc/product/fprop.input' is None"),
        (changed("axis", 1.0, INPUT), "'axis' of 'fc/product/fprop.input' is 1.0"),
        (changed("facts", {"condition": None}, INPUT), "'condition' of 'fc/.*' is None, not a number"),
        (changed("facts", ["condition"], INPUT), "'facts' of 'fc/product/fprop.input' is .*, not an object"),
        (changed("facts", {"condition": "much"}, INPUT), "'condition' of 'fc/.*' is 'much', not a number"),
        (changed("precision", {}, INPUT), "the precision of 'fc/product/fprop.input' has no entry 'format'"),
        (changed("flavor", ["qdq"]), r"flavor \['qdq'\]: expected one of"),
        (changed("places", {INPUT: []}), r"the place of 'fc/product/fprop.input' is malformed: \[\], not an object"),
        (changed("places", {INPUT: {}}), "the place of 'fc/product/fprop.input' has no entry 'precision'"),
        (changed("precision", "float9", INPUT), "float9"),
        ('{"format": "precc.onnx", "format": "precc.onnx"}', "names 'format' twice"),
        (json.dumps({"format": "precc.onnx", "version": 1}), "the document has no entry 'flavor'"),
    ],
)
def test_what_is_no_document_is_refused(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        document_from_json(text)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "mixed.onnx"
    precc.export_onnx(mixed_net(), mixed_inputs(), path)
    return path


def optimised(path: Path, level: Any) -> Any:
    """As onnxruntime saves it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def test_a_plan_comes_back_as_it_was(exported: Path) -> None:
    for path in (exported, sidecar_of(exported)):
        plan = load_plan(path)
        assert plan == mixed_plan()
        assert set(mixed_plan().slots) <= set(plan.slots)
        assert load_document(path).flavor == "portable"


LEVELS = onnxruntime.GraphOptimizationLevel.__members__


@pytest.mark.parametrize("level", LEVELS)
def test_a_plan_survives_onnxruntime(level: str, exported: Path, tmp_path: Path) -> None:
    onnx.save(optimised(exported, LEVELS[level]), tmp_path / "again.onnx")
    assert load_plan(tmp_path / "again.onnx").to_json() == load_plan(exported).to_json()


def test_a_plan_survives_other_tools(exported: Path, tmp_path: Path) -> None:
    import onnxscript.optimizer
    from onnx import inliner, shape_inference, version_converter

    model = onnx.load(exported)
    plain = onnx.load(exported)
    del plain.functions[:]  # the converter of versions knows none
    kept = [
        shape_inference.infer_shapes(model),
        onnxscript.optimizer.optimize(onnx.load(exported)),
        inliner.inline_local_functions(model),
    ]
    kept.append(version_converter.convert_version(_without_quantisers(plain), plain.opset_import[0].version + 1))
    for changed in kept:
        onnx.save(changed, tmp_path / "again.onnx")
        assert load_plan(tmp_path / "again.onnx").to_json() == load_plan(exported).to_json()


def _without_quantisers(model: Any) -> Any:
    for node in model.graph.node:
        if node.domain:
            node.domain, node.op_type = "", "Identity"
            del node.input[1:], node.attribute[:]
    return model


def test_a_plan_of_its_own_is_read_too(tmp_path: Path) -> None:
    mixed_plan().save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == mixed_plan()


def test_nodes_that_contradict_are_named(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    node = next(own for own in model.graph.node if own.op_type == "Conv")
    next(own for own in node.metadata_props if own.key == "precc.fprop.weight").value = "int8"
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(
        PlanError, match=r"says that conv/product/fprop\.weight is int8, the document .* it is bfloat16"
    ):
        load_plan(tmp_path / "changed.onnx")


def test_lost_metadata_are_told_and_the_sidecar_is_not_read_in_silence(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "lost.onnx")
    with pytest.raises(PlanError, match=r"no entry 'precc' \(made by pytorch .*hold nothing\).*not of precc"):
        load_plan(tmp_path / "lost.onnx")
    shutil.copy(sidecar_of(exported), sidecar_of(tmp_path / "lost.onnx"))
    with pytest.raises(PlanError, match=r"a tool has dropped it.*'.*lost\.onnx\.precc\.json'"):
        load_plan(tmp_path / "lost.onnx")
    assert load_plan(sidecar_of(tmp_path / "lost.onnx")) == mixed_plan()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"some text", "not JSON"),
        (b"{}", "no 'precc_plan' version"),
        (b"\x00\x01\x02", "is no plan, which is JSON or in an ONNX file"),
        (onnx.helper.make_model(onnx.GraphProto()).SerializeToString()[:2], "has no graph"),
        (onnx.helper.make_model(onnx.GraphProto(name="g")).SerializeToString(), "made by an unnamed tool"),
        (document_to_json(document()).replace('"precc.onnx"', '"other"').encode(), "no 'precc_plan' version"),
    ],
)
def test_what_is_no_exported_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(PlanError, match=message):
        load_plan(tmp_path / "file")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"cannot read the plan .*net\.onnx"):
        load_plan(tmp_path / "net.onnx")


@pytest.mark.parametrize("path", ["absent.onnx", "a\0b", None, 3])
@pytest.mark.parametrize("read", [load_plan, model_explorer_data])
def test_a_path_that_none_can_read(read: Any, path: Any) -> None:
    with pytest.raises(PlanError, match="cannot read the plan|the path of a plan is text or a Path, not"):
        read(path)


@pytest.mark.parametrize("key", [b"precc.fprop.weight", b"precc.op"])
def test_damaged_metadata_are_named(key: bytes, exported: Path, tmp_path: Path) -> None:
    damaged = key[:-1] + b"\xff"
    (tmp_path / "net.onnx").write_bytes(exported.read_bytes().replace(key, damaged))
    with pytest.raises(PlanError, match=r"net\.onnx': the metadata of the node 'node_conv2d' are damaged"):
        load_plan(tmp_path / "net.onnx")


def test_entries_of_others_stay_theirs(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    for node in model.graph.node:
        node.metadata_props.add(key="precc.note.mine", value="seen")
    onnx.save(model, tmp_path / "noted.onnx")
    assert load_plan(tmp_path / "noted.onnx") == mixed_plan()


def test_places_that_contradict_the_plan_are_named(exported: Path, tmp_path: Path) -> None:
    entries = json.loads(sidecar_of(exported).read_text())
    entries["places"]["conv/product/fprop.weight"]["precision"] = "int8"
    (tmp_path / "changed.json").write_text(json.dumps(entries))
    with pytest.raises(PlanError, match=r"place of conv/product/fprop\.weight has int8, and the plan bfloat16"):
        load_plan(tmp_path / "changed.json")


def test_data_that_is_not_beside_the_file(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(onnx.load(exported), path, save_as_external_data=True, location="net.data", size_threshold=0)
    whole = read_model(path, weights=True).graph.initializer
    assert [own.raw_data for own in whole] == [own.raw_data for own in onnx.load(exported).graph.initializer]
    (tmp_path / "net.data").write_bytes(b"\0")
    with pytest.raises(PlanError, match=r"its tensors in 'net\.data', which does not hold 'conv\.bias' as a whole"):
        read_model(path, weights=True)
    (tmp_path / "net.data").unlink()
    with pytest.raises(PlanError, match=r"its tensors in 'net\.data', which is not beside it"):
        read_model(path, weights=True)
    assert load_plan(path) == mixed_plan()


def test_a_net_that_only_ran_without_gradients(tmp_path: Path) -> None:
    net = mixed_net()
    with torch.no_grad():
        net(*mixed_inputs())
    precc.export_onnx(net, mixed_inputs(), tmp_path / "net.onnx")
    assert load_plan(tmp_path / "net.onnx") == mixed_plan()


@pytest.mark.parametrize("read", [load_plan, model_explorer_data])
def test_onnx_is_named_where_it_is_missing(read: Any, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExtraError, match=r"pip install 'precc\[onnx\]'"):
        read(exported)
    assert load_plan(sidecar_of(exported)) == mixed_plan()


def test_numbers_for_model_explorer(exported: Path, tmp_path: Path) -> None:
    (name, data), *others = model_explorer_data(exported).items()
    model = onnx.load(exported)
    assert not others
    assert name == model.graph.name
    nodes = {node.name: node for node in model.graph.node}
    assert set(data["results"]) <= set(nodes)
    conv = next(node.name for node in model.graph.node if node.op_type == "Conv")
    assert data["results"][conv] == {"value": 8.0}
    assert [entry["stop"] for entry in data["gradient"]] == [0.0, 0.5, 1.0]
    save_model_explorer_data(exported, tmp_path / "bits.json")
    assert json.loads((tmp_path / "bits.json").read_text()) == model_explorer_data(exported)
    with pytest.raises(PlanError, match="says nothing of 'condition': expected one of 'bits'"):
        model_explorer_data(exported, "condition")
    with pytest.raises(PlanError, match=r"says nothing of \['bits'\]: expected one of 'bits'"):
        model_explorer_data(exported, ["bits"])  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"precc\.json' is text, and no ONNX file"):
        model_explorer_data(sidecar_of(exported))


def test_facts_are_numbers_for_model_explorer(tmp_path: Path) -> None:
    graph = onnx.GraphProto(name="g", node=[onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="MatMul_0")])
    model = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(model, {"precc": document_to_json(document())})
    onnx.save(model, tmp_path / "facts.onnx")
    data = model_explorer_data(tmp_path / "facts.onnx", "sensitivity")
    assert data["g"]["results"] == {"MatMul_0": {"value": 0.1}}
    assert model_explorer_data(tmp_path / "facts.onnx", "condition")["g"]["results"] == {}  # it is infinite
