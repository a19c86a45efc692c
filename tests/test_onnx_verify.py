"""Exported files compared with their nets: sound ones pass, each planted defect is found and named."""

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import precc
from precc.backends.onnx.exported_program import exported_program as export_program
from precc.backends.onnx.load_plan import model_document
from precc.backends.onnx.traced_net import TracedNet, opened_for_export
from precc.backends.onnx.verification import verify
from precc.backends.onnx.verification.document_checks import check_document
from precc.backends.onnx.verification.findings import Findings
from precc.backends.onnx.verification.net_checks import check_net
from precc.backends.onnx.verification.probes import one_hot, probe_values, probes_like
from precc.backends.onnx.verification.slot_graphs import ModelParts
from precc.backends.onnx.verification.sum_checks import sum_problem
from precc.backends.onnx.verification.verify import verify_onnx
from precc.errors import BackendError, CaptureError, ExtraError, PlanError
from precc.formats import Scaling
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.rounding import quantize
from tests.mixed_net import mixed_inputs, mixed_net
from tests.nets import Attention, inputs_of
from tests.planted_defects import BETWEEN, OF_VALUES, TOLD, Defect, document, in_float16, slot_unknown

ORT = ("onnxruntime",)

#: Of the module's net, by open shapes.
PROGRAMS: dict[Any, Any] = {}


@pytest.fixture(scope="module")
def net() -> precc.PrecisionModule:
    return mixed_net()


@pytest.fixture(scope="module")
def exported(net: precc.PrecisionModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "mixed.onnx"
    precc.export_onnx(net, mixed_inputs(), path)
    return path


@pytest.fixture
def traced_once(net: precc.PrecisionModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch makes of the one net is made once for all tests."""

    def exported_program(given: Any, args: Any, kwargs: Any, shapes: Any) -> Any:
        if given is not net:
            return export_program(given, args, kwargs, shapes)
        if shapes not in PROGRAMS:
            PROGRAMS[shapes] = export_program(given, args, kwargs, shapes)
        return deepcopy(PROGRAMS[shapes])

    monkeypatch.setattr("precc.backends.onnx.traced_net.exported_program", exported_program)


def test_a_sound_file_passes(net: precc.PrecisionModule, exported: Path) -> None:
    modes = [module.training for module in net.modules()]
    found = verify_onnx(exported, net, mixed_inputs())
    assert found.ok, str(found)
    assert all(row.compared > 100 for row in found.rows)
    assert len(found.rows) == 2 * 16
    assert modes == [module.training for module in net.modules()]
    text = str(found)
    assert "mixed.onnx: sound" in text
    assert "product#1/fprop.b" in text


def planted(exported: Path, tmp_path: Path, *defects: Defect) -> Path:
    model = onnx.load(exported)
    for plant in defects:
        plant(model)
    onnx.save(model, tmp_path / "planted.onnx")
    return tmp_path / "planted.onnx"


@pytest.mark.parametrize("defects", OF_VALUES, ids=lambda defects: ",".join(plant.__name__ for plant in defects))
@pytest.mark.usefixtures("traced_once")
def test_planted_wrong_values_are_found_and_blame_no_other_slot(
    defects: dict[Defect, set[str]], net: precc.PrecisionModule, exported: Path, tmp_path: Path
) -> None:
    found = verify_onnx(planted(exported, tmp_path, *defects), net, mixed_inputs(), runtimes=ORT)
    assert not found.ok
    assert {row.slot for row in found.wrong} == set().union(*defects.values()), str(found)
    assert all("expected" in row.first for row in found.wrong)


@pytest.mark.parametrize("defects", TOLD, ids=lambda defects: ",".join(plant.__name__ for plant in defects))
@pytest.mark.usefixtures("traced_once")
def test_planted_problems_are_told(
    defects: dict[Defect, tuple[str, str]], net: precc.PrecisionModule, exported: Path, tmp_path: Path
) -> None:
    found = verify_onnx(planted(exported, tmp_path, *defects), net, mixed_inputs(), runtimes=ORT)
    for named, said in defects.values():
        assert any(named in problem and said in problem for problem in found.problems), str(found)


@pytest.mark.parametrize("defects", BETWEEN, ids=lambda defects: ",".join(plant.__name__ for plant in defects))
@pytest.mark.usefixtures("traced_once")
def test_what_is_wrong_between_roundings_is_told(
    defects: dict[Defect, str], net: precc.PrecisionModule, exported: Path, tmp_path: Path
) -> None:
    found = verify_onnx(planted(exported, tmp_path, *defects), net, mixed_inputs(), runtimes="onnxruntime")
    told = [problem for problem in found.problems if "is off by" in problem]
    assert all(any(what in problem for problem in told) for what in defects.values()), str(found)
    assert not found.wrong
    constants = [problem for problem in found.problems if "the constant 'fc1.bias' has other values" in problem]
    assert len(constants) == (len(defects) > 1)


@pytest.mark.parametrize(
    ("entry", "slot", "value", "message"),
    [
        ("opset", "", 25, "the document says opset 25, the file is of opset 26"),
        ("flavor", "", "annotate", "the flavor is 'annotate', and the file rounds it"),
        ("flavor", "", "qdq", "the flavor is 'qdq', which can express it"),
        ("axis", "conv/product/fprop.input", 9, "the axis is 9 in the file, 1 in the net"),
        ("channel", "conv/product/fprop.input", 0, "the channel is 0 in the file, 1 in the net"),
        ("stored", "fc1/product/fprop.weight", "INT8", "stored as INT8, the file has UINT4"),
        ("stored", "conv/product/fprop.input", "INT8", "stored as 'INT8', and rounded from 'images'"),
        ("node", "conv/product/fprop.input", "node_linear", "the node 'node_conv2d' that it is of that"),
    ],
)
@pytest.mark.usefixtures("traced_once")
def test_a_document_that_says_else_than_the_graph(
    entry: str, slot: str, value: object, message: str, net: precc.PrecisionModule, exported: Path
) -> None:
    model = onnx.load(exported)
    document(model, lambda content: (content["places"][slot] if slot else content).update({entry: value}))
    own, findings = model_document(model, exported), Findings((), ORT)
    check_document(model, own, findings)
    with opened_for_export(net):
        check_net(net, TracedNet.of(net, mixed_inputs(), {}, None), own, findings)
    assert any(message in problem for problem in findings.problems), findings.problems


@pytest.mark.usefixtures("traced_once")
def test_only_the_runtime_that_computes_otherwise_is_blamed(
    net: precc.PrecisionModule, exported: Path, tmp_path: Path
) -> None:
    found = verify_onnx(planted(exported, tmp_path, in_float16), net, mixed_inputs())
    assert {row.runtime for row in found.wrong} == {"onnxruntime"}
    assert "in the product" in found.wrong[0].first


def test_weights_of_another_net_are_named(exported: Path) -> None:
    found = verify_onnx(exported, mixed_net(seed=1), mixed_inputs(), runtimes=ORT)
    wrong = {row.slot for row in found.wrong}
    assert {"conv/product/fprop.weight", "head/product/fprop.weight"} <= wrong
    assert not [slot for slot in wrong if "weight" not in slot]


def test_another_model_is_named(exported: Path) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Linear(7, 5)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.own(x).sum((1, 2))
            return result

    other = precc.compile(Other(), policy="e4m3", backend="reference")
    found = verify_onnx(exported, other, mixed_inputs(), runtimes=ORT)
    text = "\n".join(found.problems)
    assert "own/product/fprop.input: a slot of the net that the file has not" in text
    assert "conv/product/fprop.input: a slot of the file that the net has not" in text


def test_an_annotated_file_rounds_nothing(net: precc.PrecisionModule, tmp_path: Path) -> None:
    precc.export_onnx(net, mixed_inputs(), tmp_path / "a.onnx", flavor="annotate")
    found = verify_onnx(tmp_path / "a.onnx", net, mixed_inputs(), runtimes=ORT)
    assert found.ok, str(found)
    assert {row.precision for row in found.rows} == {"-"}


@pytest.mark.usefixtures("traced_once")
def test_a_model_that_no_single_file_holds(
    net: precc.PrecisionModule, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precc.backends.onnx.verification.runtimes.FITS", 10_000)
    found = verify_onnx(exported, net, mixed_inputs(), runtimes=ORT)
    assert found.ok, str(found)


def test_what_cannot_be_verified(net: precc.PrecisionModule, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="unknown runtime 'tensorrt': expected one of 'onnxruntime', 'reference'"):
        verify_onnx(exported, net, mixed_inputs(), runtimes=("tensorrt",))
    for nothing in ((), None, 3):
        with pytest.raises(BackendError, match="which runs nothing"):
            verify_onnx(exported, net, mixed_inputs(), runtimes=nothing)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match=r"unknown runtime \['onnxruntime'\]"):
        verify_onnx(exported, net, mixed_inputs(), runtimes=(["onnxruntime"],))  # type: ignore[arg-type]
    with pytest.raises(CaptureError, match="kwargs has the net's inputs by name, and is no list"):
        verify_onnx(exported, net, mixed_inputs(), kwargs=[])  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="cannot read the plan"):
        verify_onnx(tmp_path / "absent.onnx", net, mixed_inputs())
    with pytest.raises(CaptureError, match="made by precc.compile, not Linear"):
        verify_onnx(exported, nn.Linear(1, 1), mixed_inputs())  # type: ignore[arg-type]
    with pytest.raises(CaptureError, match="tuple of the net's inputs"):
        verify_onnx(exported, net, mixed_inputs()[0])  # type: ignore[arg-type]
    (tmp_path / "text.onnx").write_bytes(b"\x00not a model")
    with pytest.raises(PlanError, match="ONNX file"):
        verify_onnx(tmp_path / "text.onnx", net, mixed_inputs())


def test_onnxruntime_is_named_where_it_is_missing(
    net: precc.PrecisionModule, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExtraError, match=r"pip install 'precc\[onnx\]'"):
        verify_onnx(exported, net, mixed_inputs())


FORMATS = ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float16", "bfloat16", "fixed8.4", "int8", "posit")


@pytest.mark.parametrize("name", FORMATS[:-1])
def test_probes_show_other_formats_and_modes(name: str) -> None:
    row = Precision(name).row()
    values = probe_values(row, finite=False)
    rounded = quantize(values, row)
    others = [Precision(name, mode).row() for mode in ("nearest_away", "toward_zero")]
    others += [Precision(other).row() for other in FORMATS[:-1] if other != name]
    for other in others:
        assert not torch.equal(rounded.nan_to_num(nan=1.5), quantize(values, other).nan_to_num(nan=1.5)), other
    finite = quantize(probe_values(row, finite=True), row)
    assert finite.isfinite().all()


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "nvfp4"])
def test_probes_of_scaled_formats_reach_the_whole_grid(name: str) -> None:
    row = Precision(name).row()
    values = probes_like([16, 64], row, finite=True)
    rounded = quantize(values, row)
    unscaled = quantize(values, Precision("float8_e4m3fn" if "8" in name else "float4_e2m1fn").row())
    assert rounded.isfinite().all()
    assert (rounded != unscaled).any()
    assert (rounded == 0).any(1).any()


def test_one_value_in_each_sum() -> None:
    for shift in range(3):
        ones = one_hot([5, 3, 4], kept=[0, 2], shift=shift)
        assert torch.equal(ones.sum(1), torch.ones(5, 4))


def test_a_plan_of_its_own_values(tmp_path: Path) -> None:
    """A product of a tensor with itself, and one whose operands nothing rounds."""

    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x @ x)

    precisions = {"product/fprop.a": "e4m3", "product/fprop.b": "e4m3"}
    net = precc.compile(Gram(), plan=PrecisionPlan("float32", precisions), backend="reference")
    x = (torch.randn(6, 6, generator=torch.Generator().manual_seed(0)),)
    precc.export_onnx(net, x, tmp_path / "gram.onnx")
    found = verify_onnx(tmp_path / "gram.onnx", net, x)
    assert found.ok, str(found)


def test_standard_quantisers_pass_where_the_runtime_has_the_types(tmp_path: Path) -> None:
    precisions = {
        "query/product/fprop.input": Precision("int8", scaling=Scaling("static", value=0.25)),
        "query/product/fprop.weight": Precision("int8", scaling=Scaling("static", value=0.125)),
        "key/product/fprop.input": "float8_e4m3fn",
        "key/product/fprop.weight": "float8_e5m2",
        "product#1/fprop.a": "float16",
        "product#1/fprop.b": "bfloat16",
    }
    net = precc.compile(Attention(), plan=PrecisionPlan("float32", precisions), backend="reference")
    x = (inputs_of(Attention()),)
    precc.export_onnx(net, x, tmp_path / "qdq.onnx", flavor="qdq")
    found = verify_onnx(tmp_path / "qdq.onnx", net, x)
    assert found.ok, str(found)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(self.query(x), x, x)


def test_products_of_attention_are_compared(tmp_path: Path) -> None:
    x = (torch.randn(2, 1, 4, 8, generator=torch.Generator().manual_seed(0)),)
    net = precc.compile(_Attention(), policy="e4m3", backend="reference")
    precc.export_onnx(net, x, tmp_path / "opened.onnx")
    found = verify_onnx(tmp_path / "opened.onnx", net, x, runtimes=ORT)
    assert found.ok, str(found)
    assert len(found.rows) == 6


@pytest.mark.usefixtures("traced_once")
def test_slots_of_the_net_s_own_graphs_are_asked_for(
    net: precc.PrecisionModule, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(exported)
    slot_unknown(model)
    onnx.save(model, tmp_path / "planted.onnx")
    monkeypatch.setattr(verify, "check_net", lambda *_: None)  # as if the exporter's own trace saw it as little
    found = verify_onnx(tmp_path / "planted.onnx", net, mixed_inputs(), runtimes=ORT)
    assert "head/product/fprop.input: a slot of the net that the file has not" in found.problems


def test_sums_are_within_the_bound_of_any_order(exported: Path) -> None:
    parts = ModelParts(onnx.load(exported))
    node = next(own for own in parts.model.graph.node if own.op_type == "Gemm")
    generator = np.random.default_rng(0)
    shapes = {node.input[0]: (6, 36), node.input[1]: (40, 36), node.input[2]: (40,)}
    values = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    first, second, bias = values.values()
    output, operands = node.output[0], list(node.input[:2])
    assert sum_problem(parts, node, operands, {**values, output: first @ second.T + bias}) == ""
    half = (first.astype(np.float16) @ second.T.astype(np.float16)).astype(np.float32) + bias
    assert "more than any order" in sum_problem(parts, node, operands, {**values, output: half})


def test_a_delayed_scale_that_training_has_moved_is_told(tmp_path: Path) -> None:
    scaling = Scaling("tensor", scale_format="float32", history=4)
    net = precc.compile(nn.Linear(8, 4), policy=precc.Uniform("e4m3", scaling=scaling), backend="reference")
    x = torch.randn(3, 8)
    net(x).sum().backward()
    precc.export_onnx(net, (x,), tmp_path / "net.onnx")
    assert verify_onnx(tmp_path / "net.onnx", net, (x,), runtimes=ORT).ok
    net(500 * x).sum().backward()
    found = verify_onnx(tmp_path / "net.onnx", net, (x,), runtimes=ORT)
    assert any("product/fprop.input: float8_e4m3fn/static(" in problem for problem in found.problems), str(found)
