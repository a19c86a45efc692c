"""What a report says of errors, cost, ranges and choices is what the analysis says; what it does not know it says."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.assignment.step_work import step_work
from precc.captured_graph import CapturedGraph
from precc.cost.cost_model import CostModel
from precc.cost.cost_of_plan import cost_by_op, cost_of
from precc.cost.operand_bits import OperandBits
from precc.errors import AnalysisError, PlanError
from precc.formats import FORMATS, FloatFormat
from precc.models.lenet5 import LeNet5
from precc.plan import PrecisionPlan
from precc.policies.uniform_errors import best_uniform, formats_of_width
from precc.precision import Precision
from precc.report.error_figures import ErrorFigures
from precc.report.precision_band import precision_band
from precc.report.precision_report import PrecisionReport
from precc.report.step_errors import op_plans
from precc.report.summary import summary_of

LABELS = torch.arange(8) % 10
QUICK = AnalysisOptions(probes=2, samples=512)
PLAN = PrecisionPlan(
    Precision("e4m3", scaling="tensor"),
    {"conv1/product/wgrad.grad_output": Precision("e5m2"), "fc3/product/fprop.weight": Precision("bf16")},
)


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def loss(output: Tensor) -> Tensor:
    return F.cross_entropy(output, LABELS[: len(output)])


def lenet(**options: Any) -> Any:
    torch.manual_seed(0)
    net = precc.compile(LeNet5(), backend="reference", **options)
    loss(net(images())).backward()
    return net


@pytest.fixture(scope="module")
def studied() -> tuple[Any, Analysis, PrecisionReport]:
    net = lenet(plan=PLAN)
    analysis = net.analyze(images(), loss=loss, options=QUICK)
    return net, analysis, net.report(analysis, measure=2)


def test_errors_are_those_of_the_analysis(studied: tuple[Any, Analysis, PrecisionReport]) -> None:
    net, analysis, report = studied
    assert report.step is not None
    assert report.step.predicted == ErrorFigures.of(analysis.predict(net.plan))
    assert report.step.measured == ErrorFigures.of(analysis.measure(net.plan, 2))
    assert (report.step.loss, report.step.digest, report.step.draws) == (analysis.loss, analysis.digest, 2)
    alone = {name: ErrorFigures.of(own) for name, own in analysis.contributions(net.plan).items()}
    assert {row.name: row.predicted for row in report.slots if row.predicted is not None} == alone
    plans = op_plans(analysis, net.plan)
    assert {row.name: row.predicted for row in report.rows} == {
        op: ErrorFigures.of(analysis.predict(own)) for op, own in plans.items()
    }
    first = report.rows[0]
    assert first.measured == ErrorFigures.of(analysis.measure(plans[first.name], 2))
    assert report.step.rank_correlation is not None
    assert report.step.rank_correlation > 0.5
    assert [row.measured for row in report.slots] == [None] * len(report.slots)


def test_values_are_those_of_the_records(studied: tuple[Any, Analysis, PrecisionReport]) -> None:
    net, analysis, report = studied
    assert {row.name for row in report.slots} == set(net.plan.slots)
    for row in report.slots:
        known = analysis.records[row.name].value_range
        assert row.values is not None
        assert (row.values.amax, row.values.histogram, row.values.elements) == (
            known.amax,
            known.histogram,
            known.elements,
        )
        lost = known.losses[net.plan.precision(row.name)]
        assert (row.values.underflow, row.values.overflow) == (lost.underflow_share, lost.overflow_share)
        assert row.band is not None
    conv1 = [row for row in report.slots if row.slot.layer == "conv1"]
    assert report.rows[0].amax == max(row.values.amax for row in conv1 if row.values)
    assert report.rows[0].condition == max(row.condition for row in conv1 if row.condition is not None)


def test_reasons_say_what_is_lost_and_what_errs(studied: tuple[Any, Analysis, PrecisionReport]) -> None:
    """Where over a thousandth of a slot's values are lost, and where an op makes a quarter of the squared error."""
    _, _, report = studied
    total = sum(row.predicted.gradient**2 for row in report.rows if row.predicted)
    seen = set()
    for row in report.rows:
        own = [slot.values for slot in report.slots if slot.slot.op == row.name and slot.values]
        lost = max(max(values.underflow or 0.0, values.overflow or 0.0) for values in own)
        assert ("range: " in row.why) is (lost > 1e-3)
        assert lost <= 1e-3 or f"range: {lost:.1%} " in row.why
        assert row.predicted is not None
        share = row.predicted.gradient**2 / total
        assert (" share of the error" in row.why) is (share >= 0.25)
        assert share < 0.25 or f"share of the error ({share:.0%})" in row.why
        seen |= {(lost > 1e-3, lost < 0.5), share >= 0.25}
    assert {(True, True), True, False} <= seen


class Shared(nn.Module):
    """Two ops that read one tensor, the second one last: the first has no wgrad."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.first.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


def test_a_copy_that_ops_share_is_a_cost_of_the_first() -> None:
    net: Any = precc.compile(Shared(), policy="e4m3", backend="reference")
    work = step_work(net.analyze(torch.randn(16, 8), loss=lambda output: output.square().mean(), options=QUICK))
    alike = cost_by_op(net.plan, work, precc.Memory())
    assert alike["first/product"] == 16 * 8 + 8 * 8  # bytes: the copy, and its weight
    assert alike["second/product"] == 8 * 8


def test_each_slot_is_measured_where_it_is_asked_for() -> None:
    net: Any = precc.compile(
        nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), policy="e4m3", backend="reference"
    )
    analysis = net.analyze(torch.randn(8, 4), loss=lambda output: output.square().mean(), options=QUICK)
    report = net.report(analysis, measure=2, by="slot")
    assert all(row.measured is not None for row in report.slots)
    assert all(row.measured is not None for row in report.rows)
    assert f"measured alone, the worst of {len(report.slots)} slots: " in str(report)
    pairs = [(row.predicted.gradient, row.measured.gradient) for row in report.slots if row.predicted]
    assert report.step.rank_correlation == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)


@pytest.mark.parametrize("model", [precc.BitOps(), precc.Memory(), precc.Energy()], ids=repr)
def test_the_cost_is_the_sum_over_ops(studied: tuple[Any, Analysis, PrecisionReport], model: CostModel) -> None:
    net, analysis, _ = studied
    work = step_work(analysis)
    parts = cost_by_op(net.plan, work, model)
    assert sum(parts.values()) + model.constant(work) == pytest.approx(cost_of(net.plan, work, model).value)
    report = net.report(analysis, cost=model)
    assert report.cost == cost_of(net.plan, work, model)
    assert sum(row.cost for row in report.rows if row.cost is not None) == pytest.approx(1.0)
    total = sum(parts.values())
    assert [row.cost for row in report.rows] == [pytest.approx(parts.get(row.name, 0.0) / total) for row in report.rows]


def test_choices_add_up_to_the_prediction(studied: tuple[Any, Analysis, PrecisionReport]) -> None:
    """The gradient within 15%: what is coherent between slots, and the chords of what flips, are no sums."""
    net, analysis, report = studied
    table = report.choices
    assert table is not None
    assert [name for group in table.groups for name in group.slots] == list(analysis.operands)
    chosen = [(group, group.chosen) for group in table.groups if group.chosen is not None]
    assert len(chosen) == len(table.groups)
    for group, choice in chosen:
        assert table.labels[choice] == str(net.plan.precision(group.slots[0]))
    assert sum(group.costs[choice] for group, choice in chosen) == pytest.approx(net.plan.average_bits)
    predicted = analysis.predict(net.plan)
    assert math.sqrt(sum(group.gradient[choice] for group, choice in chosen)) == pytest.approx(
        predicted.gradient, rel=0.15
    )
    squares = sum(group.loss[choice] for group, choice in chosen)
    assert predicted.loss**2 * 0.7 < squares < 2 * (predicted.loss**2 + predicted.loss_mean**2)


def test_a_sweep_over_the_choices_finds_the_front(studied: tuple[Any, Analysis, PrecisionReport]) -> None:
    """No plan of `precc.pareto` is below the Lagrangian bound of the table; up to 13 bits half are within 2% of it.

    None is further than 5% there. Beyond, one slot goes from 16 to 32 bits at a time: no plan is near the bound.
    """
    _, analysis, report = studied
    table = report.choices
    assert table is not None
    unit = OperandBits.of(step_work(analysis))
    limits = best_uniform(precc.Front().assigner(analysis, cost=unit), formats_of_width(8))
    costs, loss, gradient = (
        np.array([getattr(own, name) for own in table.groups]) for name in ("costs", "loss", "gradient")
    )
    loss, gradient = loss / limits.loss**2, gradient / limits.gradient**2
    above = []
    for plan in precc.pareto(analysis, cost=unit, points=10):
        chosen = [table.labels.index(str(plan.precision(own.slots[0]))) for own in table.groups]
        taken = np.arange(len(chosen)), np.array(chosen)
        assert plan.cost is not None
        assert costs[taken].sum() == pytest.approx(plan.cost.value)
        bound = _bound(costs, loss, gradient, max(loss[taken].sum(), gradient[taken].sum()))
        assert bound * (1 - 1e-9) <= plan.cost.value
        above += [plan.cost.value / bound] * (plan.cost.value <= 13)
    assert len(above) > 4
    assert max(above) < 1.05
    assert np.median(above) < 1.02


def _bound(costs: Any, loss: Any, gradient: Any, error: float) -> float:
    """What no plan within a relative error costs less than: by prices on the two errors, mixed."""
    found = 0.0
    for share in np.linspace(0, 1, 11):
        errors = share * loss + (1 - share) * gradient
        prices = np.logspace(-8, 8, 400)
        found = max(found, *((costs + price * errors).min(1).sum() - price * error for price in prices))
    return found


def test_rules_to_paste_do_what_they_say(studied: tuple[Any, Analysis, PrecisionReport]) -> None:
    _, analysis, report = studied
    scope: dict[str, Any] = {"precc": precc}
    exec(report.rules_block, scope)
    assert len(scope["rules"]) == 3
    assert {rule.format.name for rule in scope["rules"]} == {"bfloat16"}  # the coarsest that is finer
    head, *_ = report.rules_block.splitlines()
    before, after = (float(own.rstrip("%:")) / 100 for own in head.split() if own.rstrip(":").endswith("%"))
    net: Any = lenet(plan=PLAN, rules=scope["rules"])
    assert analysis.predict(PLAN).gradient == pytest.approx(before, abs=1e-4)
    assert analysis.predict(net.plan).gradient == pytest.approx(after, abs=1e-4)
    assert after < before
    again = net.report(analysis)
    assert "*net.plan.rules,  # the 3 that it has" in again.rules_block
    exec(again.rules_block, {"precc": precc, "net": net})
    assert again.rows[1].why.startswith("rule")


@pytest.fixture(scope="module")
def small() -> tuple[Any, Analysis]:
    """Gradients that e4m3 flushes to 0."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    net: Any = precc.compile(layers, policy="e4m3", backend="reference")
    x = torch.randn(16, 8)
    net(x).square().mean().backward()
    return net, net.analyze(x, loss=lambda output: output.square().mean() * 1e-2, options=QUICK)


def test_a_prediction_that_is_not_sure_says_so(small: tuple[Any, Analysis]) -> None:
    """In the summary, the table, the rules, and in what is saved; that of another plan is sure."""
    net, analysis = small
    report = net.report(analysis)
    estimate = analysis.predict(net.plan)
    assert report.step.predicted.lost == estimate.lost > 0.5
    assert "unsure, for a slot loses 100%: measure it" in report.summary
    assert summary_of(report).doubt == "a slot loses 100%"
    worst = report.sorted_by("predicted").rows[0].predicted
    assert f"{worst.gradient:.2%}?, " in report.summary
    assert f"{worst.gradient:.2%}?  " in str(report)
    for text in (str(report), report.to_markdown(), report._repr_html_()):
        assert "? is not sure: a slot loses" in text
    assert f"gradient error {estimate.gradient:.2%}? -> " in report.rules_block
    assert "# ? is not sure: measure the net" in report.rules_block
    assert PrecisionReport.from_json(report.to_json()).step.predicted == report.step.predicted  # type: ignore[union-attr]
    finer = net.report(analysis, against=PrecisionPlan("float32")).against
    assert finer.step.predicted.lost < 0.1
    assert "?" not in str(finer)


def test_standard_errors_are_those_of_draws(small: tuple[Any, Analysis]) -> None:
    net, analysis = small
    found = net.report(analysis, measure=3).step.measured
    assert found.standard_error == analysis.measure(net.plan, 3).standard_error.gradient > 0
    assert ErrorFigures(0.0, 0.0, 0.2, standard_error=0.11).doubt == "its standard error is large"
    assert ErrorFigures(0.0, 0.0, 0.2, standard_error=0.09).doubt == ""
    assert ErrorFigures(0.0, 0.0, 0.0, standard_error=0.0).doubt == ""


def test_a_net_that_did_not_run_says_what_to_do() -> None:
    report = precc.compile(LeNet5(), backend="reference").report()
    assert report.rows == report.slots == ()
    assert any("call the net once" in own for own in report.missing)
    assert any("net.analyze(" in own for own in report.missing)
    assert len(report.summary.splitlines()) <= 10


def test_a_net_that_was_analysed_alone_has_its_formats() -> None:
    net: Any = precc.compile(nn.Linear(4, 2), policy="e4m3", backend="reference")
    net.analyze(torch.randn(8, 4), loss=lambda output: output.square().mean(), options=QUICK)
    report = net.report()
    assert report.rows[0].formats == ("float8_e4m3fn", "-", "float8_e4m3fn")
    assert report.step is not None
    assert any("no graph captured yet" in own for own in report.missing)
    assert any("measure=4" in own for own in report.missing)


def test_a_net_that_rounds_nothing_errs_not() -> None:
    net = lenet()
    report = net.report(net.analyze(images(), loss=loss, options=QUICK), measure=2)
    assert report.step is not None
    assert report.step.predicted == ErrorFigures(0.0, 0.0, 0.0, standard_error=0.0)
    assert {row.why for row in report.rows} == {"not rounded"}
    assert [row for row in report.slots if row.rounded or row.band is not None] == []
    assert report.rules_block == ""
    assert report.step.rank_correlation is None
    assert "8 bits" not in report.summary
    assert "32 bits an operand" in report.summary


class _Interrupted(torch.autograd.Function):
    """Ends the step in its backward, as the user does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["capture", "forward", "backward"])
def test_an_aborted_run_has_a_report(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net: Any = (
        precc.compile(LeNet5(), policy="e4m3", backend="reference") if where == "capture" else lenet(policy="e4m3")
    )
    before = net.report()
    with monkeypatch.context() as patch:
        if where != "backward":
            patch.setattr(CapturedGraph, "take_records" if where == "capture" else "next_rows", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            _Interrupted.apply(net(images())).sum().backward()
    after = net.report()
    assert after.rows == before.rows
    assert str(after)
    loss(net(images())).backward()
    assert len(net.report().rows) == 5


def _interrupt(*args: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def test_a_forward_alone_lacks_the_backward() -> None:
    net = precc.compile(nn.Linear(4, 2), policy="e4m3", backend="reference")
    with torch.no_grad():
        net(torch.ones(2, 4))
    report = net.report()
    assert report.rows[0].formats == ("float8_e4m3fn", "-", "-")
    assert any("dgrad and wgrad are not known" in own for own in report.missing)


def test_what_cannot_be_predicted_is_said() -> None:
    net = lenet(plan=PrecisionPlan(Precision("e4m3", transform="shift_and_squeeze")))
    report = net.report(net.analyze(images(), loss=loss, options=QUICK))
    assert any(own.startswith("errors are not predicted: ") for own in report.missing)
    assert report.step is not None
    assert (report.step.predicted, report.choices, report.rules_block) == (None, None, "")
    assert report.cost is not None
    assert str(report)


def test_an_analysis_of_another_net_is_not_used(studied: tuple[Any, Analysis, PrecisionReport]) -> None:
    _, analysis, _ = studied
    net: Any = precc.compile(nn.Sequential(nn.Linear(4, 2)), policy="e4m3", backend="reference")
    net(torch.ones(2, 4)).sum().backward()
    report = net.report(analysis)
    assert "the analysis is of another step: it does not know the slot 0/product/fprop.input" in report.missing[0]
    assert (report.step, report.rows[0].predicted, report.slots[0].values) == (None, None, None)
    with pytest.raises(AnalysisError, match="of another step"):
        net.report(analysis, measure=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"measure": 1}, AnalysisError, "at least 2"),
        ({"measure": 2.0}, AnalysisError, "at least 2"),
        ({"measure": 2}, AnalysisError, "pass the analysis"),
        ({"by": "layer"}, AnalysisError, "'op', 'slot'"),
        ({"against": 3}, PlanError, "against is a report, a plan, or"),
        ({"choices": 0}, PlanError, "choices is True"),
        ({"cost": precc.BitOps}, PlanError, "no cost model"),
        ({"choices": "all"}, PlanError, "choices is True"),
        ({"analysis": "e4m3"}, AnalysisError, "what net.analyze returns"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    net: Any = precc.compile(nn.Linear(4, 2), backend="reference")
    with pytest.raises(error, match=message):
        net.report(**options)


def test_another_report_stands_beside(studied: tuple[Any, Analysis, PrecisionReport]) -> None:
    _, analysis, report = studied
    other = lenet(policy="bf16").report(analysis, against=report)
    assert "  against    LeNet5: " in str(other)
    assert f"{report.step.predicted.gradient:.2%} -> " in other.summary  # type: ignore[union-attr]
    assert other.against == report


def test_another_plan_stands_beside(small: tuple[Any, Analysis]) -> None:
    """A report of the same step under it; rules of the net hold over it as over a plan that is set."""
    net, analysis = small
    plan = PrecisionPlan("bf16", {"2/product/fprop.weight": "fp16"})
    other = net.report(analysis, against=plan).against
    assert other.title == "Sequential"
    before = net.plan
    net.set_plan(plan)
    try:
        own = net.report(analysis)
    finally:
        net.set_plan(before)
    assert [row.formats for row in other.rows] == [row.formats for row in own.rows]
    assert other.step == own.step
    assert other.cost == own.cost
    assert (other.against, net.plan) == (None, before)
    with pytest.raises(PlanError, match="nowhere"):
        net.report(analysis, against=PrecisionPlan("bf16", {"nowhere/product/fprop.weight": "fp16"}))
    unknown: Any = precc.compile(nn.Linear(4, 2), rules=[precc.Rule("*", keep="fp32")], backend="reference")
    unknown(torch.ones(2, 4))
    beside = unknown.report(against=PrecisionPlan("e4m3"))
    assert beside.against.rows[0].formats == beside.rows[0].formats


# Bands: their ends round to themselves, and what is beyond does not.

SCALINGS = [None, "tensor", precc.Scaling("tensor", scale_format="float32"), precc.Scaling("static", value=0.25)]

#: Of float64 nothing is rounded; e8m0 has no zero to scale.
UNBANDED, UNSCALED = ("float64",), ("float8_e8m0fnu", *(name for name in FORMATS if hasattr(FORMATS[name], "scaling")))
BANDED = [
    (name, own)
    for name in FORMATS
    for own in SCALINGS
    if name not in UNBANDED and (own is None or name not in UNSCALED)
]


@pytest.mark.parametrize(("name", "scaling"), BANDED)
def test_bands_are_those_of_the_rounding(name: str, scaling: Any) -> None:
    fmt = FORMATS[name]
    precision = Precision(fmt, scaling=scaling)
    amax = 3.0
    band = precision_band(precision, amax, torch.float64)
    assert band is not None
    with_amax = precision.granularity is not None and precision.granularity.value != "static"

    def rounded(value: float) -> float:
        """Beside the largest value, which makes the scale."""
        values = [value, amax] if with_amax else [value]
        return float(precc.round_to(torch.tensor(values, dtype=torch.float64), fmt, scaling=scaling)[0])

    ends = [2.0**own for own in (band.lowest, band.normal, band.highest)]
    beside = [own for own in ends if own <= amax or not with_amax]
    assert [rounded(own) / own for own in beside] == pytest.approx([1.0] * len(beside), rel=1e-6)
    element = precision.element
    if name != "float8_e8m0fnu":
        assert rounded(ends[0] * 0.49) == 0.0
        assert rounded(ends[0] * 0.51) != 0.0
    if not with_amax and name != "float64":
        assert rounded(ends[2] * 1.6) / ends[2] != pytest.approx(1.6, rel=0.2)
    if isinstance(element, FloatFormat) and element.subnormals and element.mantissa_bits > 1:
        step = 2.0**-element.mantissa_bits
        above, below = ends[1] * (1 + step), ends[1] * (1 - step / 2)
        if above <= amax or not with_amax:
            assert rounded(above) / above == pytest.approx(1.0, rel=1e-9)
            assert rounded(below) / below != pytest.approx(1.0, rel=step / 8)


def test_a_delayed_scale_is_that_of_the_record() -> None:
    delayed = Precision("e4m3", scaling=precc.Scaling("tensor", history=4))
    now, later = (precision_band(delayed, 1.0, torch.float32, recorded) for recorded in (0.0, 64.0))
    assert now is not None
    assert later is not None
    assert later.highest - now.highest == 6.0


def test_scales_of_groups_are_approximate() -> None:
    bands = [precision_band(Precision(name), 3.0, torch.float32) for name in ("mxfp4", "e4m3")]
    assert [own.approximate for own in bands if own is not None] == [True, False]


def test_a_scale_that_vanishes_has_no_band() -> None:
    nv = Precision("nvfp4")
    assert precision_band(nv, 0.0, torch.float32) is None
