"""The command."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import precc
from precc.cli import main
from precc.devices.published import PUBLISHED
from precc.formats import FORMATS
from precc.models.mlp import MLP
from tests.golden import check_golden


def test_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in FORMATS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--data", "/absent"], "'/absent' does not exist"),
        (["demo", "--backend", "tpu"], "unknown backend 'tpu'"),
        (["demo", "--out", __file__], "test_cli.py"),
    ],
)
def test_errors_of_ours_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path), *arguments[1:]]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("precc: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["demo", "--epochs", "x"], ["demo", "--seed", "9" * 30], ["fly"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"precc {precc.__version__}\n"


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An analysis in a file."""
    torch.manual_seed(0)
    x = torch.randn(16, 1, 28, 28)
    net = precc.compile(MLP(), backend="reference")
    path = tmp_path_factory.mktemp("step") / "step.precc"
    net.analyze(x, loss=lambda output: F.cross_entropy(output, torch.arange(16) % 10)).save(path)
    return str(path)


def test_plans_from_a_saved_analysis(step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine, coarse, again = (str(tmp_path / f"{name}.json") for name in ("fine", "coarse", "again"))
    assert main(["plan", "assign", step, "--gradient", "0.02", "--out", fine]) == 0
    assert main(["plan", "assign", step, "--bits", "5", "--cost", "energy", "--out", coarse]) == 0
    assert "cost: " in capsys.readouterr().out
    assert main(["plan", "show", coarse]) == 0
    shown = capsys.readouterr().out
    for part in ("plan by BitBudget(average_bits=5.0)", "budget: 5 bits on average", "predicted error: loss", " J\n"):
        assert part in shown
    assert main(["plan", "diff", fine, coarse]) == 0
    assert "fc1/product/fprop.weight: " in capsys.readouterr().out
    assert main(["plan", "apply", coarse, step, "--cost", "memory", "--out", again]) == 0
    assert "bytes" in capsys.readouterr().out
    assert precc.PrecisionPlan.load(again) == precc.PrecisionPlan.load(coarse)
    assert precc.PrecisionPlan.load(fine).average_bits > precc.PrecisionPlan.load(coarse).average_bits


def test_plans_that_cost_the_least_time_on_a_device(
    step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, device, folder = (str(tmp_path / name) for name in ("plan.json", "h100.json", "front"))
    PUBLISHED["H100-SXM-published"].save(device)
    for number, cost in enumerate((f"roofline:{device}", "roofline:H100-SXM-published")):
        options = ["--cost", cost, "--target", "sm_90"]
        assert main(["plan", "assign", step, "--gradient", "0.05", *options, "--out", plan]) == 0
        assert main(["plan", "apply", plan, step, *options]) == 0
        assert main(["plan", "pareto", step, "--points", "3", *options, "--out", folder + str(number)]) == 0
        assert capsys.readouterr().out.count(" s\n") >= 2
    other = str(tmp_path / "other.json")
    replace(PUBLISHED["H100-SXM-published"], kind="cpu", target="cpu-emulated", name="Z80").save(other)
    assert main(["plan", "assign", step, "--gradient", "0.05", "--cost", f"roofline:{other}"]) == 1
    assert "measure it with `precc calibrate`" in capsys.readouterr().err
    assert main(["plan", "assign", step, "--gradient", "0.05", "--cost", f"roofline:{other}", "--anywhere"]) == 0


def test_a_front_does_not_mix_with_another(step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "07.json").write_text("{}")
    assert main(["plan", "pareto", step, "--points", "3", "--out", str(tmp_path)]) == 1
    assert "has plans already" in capsys.readouterr().err
    assert [own.name for own in tmp_path.iterdir()] == ["07.json"]


def test_a_plan_that_the_target_does_not_run(step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "plan.json")
    precc.PrecisionPlan("e3m2").save(path)
    assert main(["plan", "apply", path, step]) == 0
    assert main(["plan", "apply", path, step, "--target", "sm_90"]) == 1
    assert "sm_90 multiplies no" in capsys.readouterr().err


def test_plans_in_two_passes_are_shown(step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "plan.json")
    precc.Threshold(10.0).assign(precc.Analysis.load(step)).save(path)
    assert main(["plan", "show", path]) == 0
    assert "values decide" in capsys.readouterr().out


RULES = """[
 {"path": "fc3", "keep": "float32"},
 {"path": "fc2", "role": "wgrad", "format": "e5m2", "rounding": "stochastic", "scaling": {"granularity": "tensor"}}
]"""


def test_rules_hold_over_plans(step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, rules = tmp_path / "plan.json", tmp_path / "rules.json"
    rules.write_text(RULES)
    options = ["--rule", "fc1:role=fprop,format=e4m3,scaling=tensor,required=false", "--rule", str(rules)]
    assert main(["plan", "assign", step, "--bits", "8", *options, "--out", str(plan)]) == 0
    found = precc.PrecisionPlan.load(plan)
    assert found.rules == (
        precc.Rule("fc1", role="fprop", format="e4m3", scaling="tensor", required=False),
        precc.Rule("fc3", keep="fp32"),
        precc.Rule("fc2", role="wgrad", format="e5m2", rounding="stochastic", scaling="tensor"),
    )
    assert str(found.precision("fc3/product/fprop.weight")) == "float32"
    assert str(found.precision("fc1/product/fprop.input")).startswith("float8_e4m3fn")
    front = ["plan", "pareto", step, "--points", "2", "--rule", "*:format=bf16", "--out", str(tmp_path / "front")]
    assert main(front) == 0
    assert precc.PrecisionPlan.load(tmp_path / "front" / "00.json").average_bits == 16
    assert "wrote 1 plans" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        (["--bits", "6", "--inference"], "BitBudget(inference=True, average_bits=6.0)"),
        (["--limit", "1e9"], "CostBudget(limit=1000000000.0)"),
        (["--bits", "6", "--weights", "hessian"], "HessianBudget(average_bits=6.0)"),
        (
            ["--bits", "6", "--weights", "importance", "--candidates", "e2m1,e4m3"],
            "ImportanceBudget(candidates=['float4_e2m1fn/",
        ),
        (["--tau", "10"], "Threshold(10, 'component', low="),
        (
            ["--tau", "2", "--granularity", "node", "--low", "e5m2", "--high", "bf16", "--backward", "fp16"],
            "Threshold(2, 'node', low=",
        ),
        (["--tau", "inf", "--granularity", "node", "--first-last-high", "bf16"], "FirstLastHigh(Threshold(inf, 'node'"),
        (
            ["--gradient", "0.1", "--first-last-high", "fp32"],
            "FirstLastHigh(ErrorBudget(gradient=0.1), 'float32'",
        ),
    ],
)
def test_policies_of_the_command(
    options: list[str], policy: str, step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = str(tmp_path / "plan.json")
    assert main(["plan", "assign", step, *options, "--out", plan]) == 0
    assert precc.PrecisionPlan.load(plan).provenance.policy.startswith(policy)
    assert policy in " ".join(capsys.readouterr().out.split())


def test_the_cost_of_formats_of_weights_is_their_bits(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "assign", step, "--bits", "6", "--weights", "hessian"]) == 0
    assert "cost: 6 bits\n" in capsys.readouterr().out
    assert main(["plan", "assign", step, "--bits", "6", "--weights", "hessian", "--cost", "energy"]) == 0
    assert " J\n" in capsys.readouterr().out


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse words help in another way")
def test_the_help_of_assign(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main(["plan", "assign", "--help"])
    check_golden("plan_assign_help.txt", capsys.readouterr().out.strip())


def test_the_front_of_a_saved_analysis(step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "front"
    assert main(["plan", "pareto", step, "--points", "4", "--candidates", "e4m3,bf16,fp32", "--out", str(folder)]) == 0
    assert "average bits" in capsys.readouterr().out
    plans = [precc.PrecisionPlan.load(path) for path in sorted(folder.iterdir())]
    assert [plan.cost.value for plan in plans if plan.cost] == sorted(plan.cost.value for plan in plans if plan.cost)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["assign", "{step}"], "needs one budget"),
        (["assign", "{step}", "--bits", "5", "--loss", "1"], "needs one budget"),
        (["assign", "{step}", "--bits", "5", "--tau", "1"], "needs one budget"),
        (
            ["assign", "{step}", "--limit", "5", "--weights", "hessian"],
            "--weights goes with --bits, which",
        ),
        (["assign", "{step}", "--limit", "5", "--low", "e4m3"], "--low goes with --tau, which is not given"),
        (["assign", "{step}", "--tau", "1", "--inference"], "leave out --candidates, --inference and --results"),
        (
            ["assign", "{step}", "--bits", "5", "--weights", "hessian", "--inference"],
            "leave out --inference, --results",
        ),
        (["assign", "{step}", "--tau", "-1"], "tau"),
        (["assign", "{step}", "--tau", "1", "--high", "e4m33x"], "e4m33x"),
        (["assign", "{step}", "--bits", "5", "--first-last-high", "e4m33x"], "e4m33x"),
        (["assign", "{step}", "--bits", "5", "--rule", "fc3"], "--rule 'fc3': neither a rule, such as 'fc3:keep=fp32'"),
        (
            ["assign", "{step}", "--bits", "5", "--rule", "fc3:size=4"],
            "'size' is nothing that a rule has: expected",
        ),
        (["assign", "{step}", "--bits", "5", "--rule", "fc3:keep=fp32,keep=fp16"], "keep is there twice"),
        (
            ["assign", "{step}", "--bits", "5", "--rule", "fc3:keep=fp32,required=0"],
            "required is true or false, not",
        ),
        (["assign", "{step}", "--bits", "5", "--rule", "fc3:keep=e4m33x"], "--rule 'fc3:keep=e4m33x': unknown format"),
        (["assign", "{step}", "--bits", "5", "--rule", "fc9:keep=fp32"], "fc9"),
        (["assign", "{step}", "--bits", "5", "--rule", "{step}"], "step.precc': the file is no JSON: "),
        (["assign", "{step}", "--bits", "5", "--rule", "{plan}"], "rules are malformed: "),
        (["assign", "{step}", "--bits", "5", "--target", "sm_80"], "the cheapest one costs 16"),
        (["assign", "{step}", "--gradient", "1e-9", "--candidates", "e4m3"], "Feasible: gradient="),
        (["assign", "{step}", "--bits", "5", "--candidates", "e4m33x"], "e4m33x"),
        (["assign", "{plan}", "--bits", "5"], "holds no analysis"),
        (
            ["assign", "{step}", "--bits", "5", "--cost", "time"],
            "unknown cost 'time': expected bit-ops, energy, memory",
        ),
        (["assign", "{step}", "--bits", "5", "--cost", "roofline:"], "unknown cost 'roofline:'"),
        (["assign", "{step}", "--bits", "5", "--cost", "roofline:{plan}"], "holds no figures of a device: the entry"),
        (["assign", "{step}", "--bits", "5", "--cost", "roofline:/absent"], "'/absent'"),
        (["pareto", "{step}", "--cost", "roofline:H100-SXM-published"], "not of cpu-emulated: give target='sm_90'"),
        (["show", "{step}"], "is no plan, which is JSON"),
        (["show", "/absent.json"], "cannot read the plan"),
        (["apply", "{plan}", "{step}"], "a slot that MLP does not have"),
        (["pareto", "{step}", "--points", "1"], "at least 2"),
    ],
)
def test_plan_commands_that_fail(
    arguments: list[str], message: str, step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "plan.json"
    precc.PrecisionPlan("e4m3", {"other/product/fprop.input": "bf16"}).save(other)
    assert main(["plan", *(own.format(step=step, plan=other) for own in arguments)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("precc: ")
    assert message in error
    assert error.count("\n") == 1
