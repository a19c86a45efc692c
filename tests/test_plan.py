"""Plans as values: equality, JSON both ways, differences, average bits, and bad files."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import precc
from precc.errors import FormatError, PlanError, UnsupportedError
from precc.files import write_whole
from precc.formats import FloatFormat, parse_format
from precc.plan import PrecisionPlan
from precc.policy import Uniform, parse_policy
from precc.precision import Precision
from precc.provenance import Provenance
from tests.golden import check_golden
from tests.nets import uniform

FP32, E4M3, BF16 = (Precision(parse_format(name)) for name in ("fp32", "e4m3", "bf16"))
MIXED = PrecisionPlan(E4M3, {"fc/product/wgrad.input": BF16, "fc/product/fprop.input": E4M3})


def test_equality_is_on_content() -> None:
    assert PrecisionPlan(E4M3, {"a/product/fprop.input": E4M3}) == PrecisionPlan(E4M3)
    assert hash(PrecisionPlan(E4M3, {"a/product/fprop.input": E4M3})) == hash(PrecisionPlan(E4M3))
    assert PrecisionPlan(E4M3, provenance=Provenance("one")) == PrecisionPlan(E4M3, provenance=Provenance("two"))
    assert MIXED != PrecisionPlan(E4M3)
    assert PrecisionPlan(E4M3) != PrecisionPlan(FP32)
    assert MIXED != "a plan"


def test_plans_cannot_be_changed() -> None:
    source = {"fc/product/fprop.input": E4M3}
    plan = PrecisionPlan(FP32, source)
    source["fc/product/fprop.input"] = BF16
    assert plan.precision("fc/product/fprop.input") == E4M3
    with pytest.raises(AttributeError):
        plan.default = E4M3  # type: ignore[misc]
    with pytest.raises(TypeError):
        plan.slots["x"] = E4M3  # type: ignore[index]


formats = st.sampled_from(
    [
        parse_format("e4m3"),
        parse_format("e4m3").with_overflow("nan"),
        parse_format("e7m9"),
        FloatFormat(name="mine", exponent_bits=4, mantissa_bits=3),
    ]
)
precisions = formats.map(Precision)


@given(precisions, st.dictionaries(st.text(), precisions), st.dictionaries(st.text(), st.integers(0, 2**60)))
def test_json_goes_both_ways(default: Precision, slots: dict[str, Precision], work: dict[str, int]) -> None:
    plan = PrecisionPlan(default, slots, work, Provenance("policy", "budget", "digest"))
    back = PrecisionPlan.from_json(plan.to_json())
    assert back == plan
    assert (dict(back.slots), dict(back.multiply_adds), back.provenance) == (slots, work, plan.provenance)
    assert back.to_json() == plan.to_json()
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_a_plan_file_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    MIXED.save(path)
    assert PrecisionPlan.load(path) == MIXED
    before = path.read_bytes()

    def fail(source: object, target: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        PrecisionPlan("bf16").save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_where_a_file_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        write_whole(tmp_path / "absent" / "plan.json", b"")
    with pytest.raises(IsADirectoryError, match="is a folder, not a file to write"):
        write_whole(tmp_path, b"")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "no 'precc_plan' version"),
        ("{}", "no 'precc_plan' version"),
        ('{"precc_plan": 2}', "version 2; this precc reads version 1"),
        ('{"precc_plan": "1"}', "version '1'"),
        ('{"precc_plan": 1}', "has no entry 'default'"),
        ('{"precc_plan": 1, "default": "e4m3", "slots": {}, "multiply_adds": {"a": 1.5}}', "multiply-adds are 1.5"),
        ('{"precc_plan": true, "default": "e4m3", "slots": {}}', "version True"),
        ('{"precc_plan": 1, "default": 3, "slots": {}}', "malformed: 3 stands where"),
        ('{"precc_plan": 1, "default": "e4m3", "slotz": {}}', "unknown entry 'slotz'"),
        ('{"precc_plan": 1, "default": "e4m3", "slots": {}, "multiply_adds": {"a": Infinity}}', "malformed"),
        (
            '{"precc_plan": 1, "default": {"format": "e4m3", "rounding": "nearest_even", "scales": 1}, "slots": {}}',
            "unknown entry 'scales'",
        ),
        ('{"precc_plan": 1, "default": {"format": "e4m3", "rounding": "up"}, "slots": {}}', "unknown rounding 'up'"),
        ('{"precc_plan": 1, "default": {"format": "fp7", "rounding": "nearest_even"}, "slots": {}}', "unknown format"),
        (
            '{"precc_plan": 1, "slots": {"a": 1, "a": 2}, "default": {"format": "e4m3", "rounding": "nearest_even"}}',
            "names 'a' twice",
        ),
        ('{"precc_plan": 1, "default": {"format": "e4m3", "rounding": "nearest_even"}, "slots": []}', "malformed"),
    ],
)
def test_bad_files_are_errors_that_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=message) as caught:
        PrecisionPlan.load(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"cannot read the plan .*absent\.json"):
        PrecisionPlan.load(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match=r"binary\.json"):
        PrecisionPlan.load(tmp_path / "binary.json")


def test_differences() -> None:
    assert not MIXED.diff(MIXED)
    assert str(MIXED.diff(MIXED)) == "no difference"
    assert [str(change) for change in PrecisionPlan(FP32).diff(MIXED)] == [
        "fc/product/wgrad.input: float32 -> bfloat16",
        "*: float32 -> float8_e4m3fn",
    ]


def test_average_bits_weighs_by_multiply_adds() -> None:
    assert uniform("e4m3").average_bits == 8
    with pytest.raises(PlanError, match="work of slot"):
        _ = MIXED.average_bits
    known = MIXED.resolve({"fc/product/wgrad.input": 1, "fc/product/fprop.input": 3})
    assert known.average_bits == (16 * 1 + 8 * 3) / 4


def test_a_net_knows_the_average_bits_of_its_plan() -> None:
    net = precc.compile(nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 2, bias=False)), backend="reference")
    net(torch.randn(5, 8)).sum().backward()
    low = {name: E4M3 for name in net.plan.slots if name.startswith("1/")}
    net.set_plan(PrecisionPlan(FP32, low))
    # layer 0: fprop and wgrad of 160 multiply-adds; layer 1: fprop, dgrad and wgrad of 40
    assert net.plan.average_bits == (2 * 2 * 160 * 32 + 3 * 2 * 40 * 8) / (2 * 2 * 160 + 3 * 2 * 40)


def test_the_printed_plan() -> None:
    check_golden("plan.txt", str(MIXED))


def test_json_form() -> None:
    check_golden("plan.json.txt", MIXED.to_json().strip())
    assert json.loads(MIXED.to_json())["precc_plan"] == 1


def test_uniform_and_strings_as_policies() -> None:
    assert parse_policy("bf16") == Uniform("bfloat16") == parse_policy(parse_format("bf16"))
    assert Uniform("e4m3").assign() == PrecisionPlan(E4M3)
    assert Uniform("e4m3").assign().provenance.policy == "Uniform('float8_e4m3fn')"
    with pytest.raises(FormatError, match="policy 'fp7'.*unknown format"):
        parse_policy("fp7")
    with pytest.raises(PlanError, match="a plan is no policy"):
        parse_policy(MIXED)  # type: ignore[arg-type]
    for thing in (3, Uniform, torch.float16):
        with pytest.raises(PlanError, match="has no assign"):
            parse_policy(thing)  # type: ignore[arg-type]


def test_plans_take_names_of_formats() -> None:
    assert PrecisionPlan("e4m3", {"fc/product/wgrad.input": "bf16"}) == MIXED
    with pytest.raises(FormatError, match="unknown format 'fp7'"):
        PrecisionPlan("fp7")
    with pytest.raises(FormatError, match="a format is a Format or its name"):
        PrecisionPlan("e4m3", {"a": 3})  # type: ignore[dict-item]


def test_average_bits_needs_work() -> None:
    with pytest.raises(PlanError, match="no multiply-adds"):
        _ = PrecisionPlan("e4m3", {"a": "bf16"}, {"a": 0}).average_bits


def test_average_bits_does_not_depend_on_the_order_of_calls() -> None:
    averages = []
    for inference_first in (False, True):
        net = precc.compile(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), backend="reference")
        if inference_first:
            with torch.no_grad():
                net(torch.randn(1000, 8))
        net(torch.randn(5, 8)).sum().backward()
        net.set_plan(PrecisionPlan("fp32", {name: "e4m3" for name in net.plan.slots if "wgrad" in name}))
        averages.append((net.plan.average_bits, [row.multiply_adds for row in net.report().rows]))
    assert averages[0] == averages[1]


def test_what_uniform_cannot_do_yet_says_so() -> None:
    with pytest.raises(UnsupportedError, match="elementwise"):
        Uniform("e4m3", elementwise="tensor")  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="unknown rounding"):
        Uniform("e4m3", rounding="stochastically")
    with pytest.raises(UnsupportedError, match="hysteresis"):
        Uniform("e4m3", rounding="hysteresis")
    with pytest.raises(FormatError, match="'mxfp8_e4m3' has a scaling of its own"):
        Uniform("mxfp8", scaling="tensor")


def test_slots_that_are_nearly_right_are_told(tmp_path: Path) -> None:
    net = precc.compile(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), backend="reference")
    net(torch.ones(1, 2)).sum().backward()
    with pytest.raises(PlanError, match="did you mean '1/product/fprop.weight'"):
        net.set_plan(PrecisionPlan("fp32", {"1/product/fprop.wieght": "e4m3"}))
    with pytest.raises(PlanError, match=r"its slots there are 1/product.*; for all of them: precc.Rule\('1', ...\)"):
        net.set_plan(PrecisionPlan("fp32", {"1": "e4m3"}))
    with pytest.raises(FileNotFoundError, match=r"cannot write '.*absent/plan.json': there is no folder"):
        net.plan.save(tmp_path / "absent" / "plan.json")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("0/product/dgrad.weight", r"did you mean '0/product/"),  # the layer stays; the first has no dgrad
        ("0/product/forward.weight", r"did you mean '0/product/fprop.weight'"),
        ("[01]*", r"precc.Rule\('\[01\]\*', format=...\) all those of the modules that fit"),
    ],
)
def test_names_of_no_slot_are_told_with_what_is_meant(wrong: str, message: str) -> None:
    net = precc.compile(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)), backend="reference")
    net(torch.ones(2, 4)).sum().backward()
    with pytest.raises(PlanError, match=message):
        net.set_plan(PrecisionPlan("fp32", {wrong: "bf16"}))


def test_slots_without_a_default_are_told_how_to_be_a_plan() -> None:
    net = precc.compile(torch.nn.Linear(4, 4), backend="reference")
    with pytest.raises(PlanError, match=r"precc.PrecisionPlan\('fp32', \{...\}\)"):
        net.set_plan({"product/fprop.weight": "bf16"})  # type: ignore[arg-type]
