"""Policies with budgets: they keep them, by prediction and by measurement, and say what they cannot do."""

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.analysis.error_estimate import ErrorEstimate, StandardErrors
from precc.assignment.assigner import Scored
from precc.assignment.candidates import CANDIDATES, scaled
from precc.assignment.choice_costs import Palette, choice_costs
from precc.assignment.choice_tables import Reference
from precc.assignment.groups import Grouping, GroupKind, Share, group_graph
from precc.assignment.limits import Limits
from precc.assignment.problem import Solution
from precc.assignment.step_work import step_work
from precc.cost.bit_ops import BitOps
from precc.cost.cost_of_plan import cost_of
from precc.cost.memory import Memory
from precc.cost.plan_cost import PlanCost
from precc.cost.work import ProductWork, StepWork
from precc.errors import AnalysisError, FormatError, InfeasibleError, PlanError
from precc.models.lenet5 import LeNet5
from precc.models.mlp import MLP
from precc.policies.bit_budget import BitBudget
from precc.policies.budget_policy import BudgetPolicy
from precc.policies.cost_budget import CostBudget
from precc.policies.error_budget import ErrorBudget
from precc.policies.first_last_high import FirstLastHigh
from precc.policies.pareto import Front, _budget, pareto
from precc.policies.uniform_errors import best_uniform, formats_of_width
from precc.rule import Rule
from precc.slots import Role, Slot

LABELS = torch.arange(32) % 10


def images() -> Tensor:
    return torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def cross_entropy(output: Tensor) -> Tensor:
    return F.cross_entropy(output, LABELS)


def compiled(model: nn.Module) -> Any:
    return precc.compile(model, backend="reference")


def analysed(model: nn.Module, **options: Any) -> Analysis:
    found: Analysis = compiled(model).analyze(images(), loss=cross_entropy, options=AnalysisOptions(**options))
    return found


@pytest.fixture(scope="module")
def lenet5() -> Analysis:
    torch.manual_seed(0)
    return analysed(LeNet5())


@pytest.fixture(scope="module")
def mlp() -> Analysis:
    torch.manual_seed(0)
    return analysed(MLP(), sums=32)


def rms(error: ErrorEstimate) -> float:
    return math.hypot(error.loss, error.loss_mean)


def known(plan: precc.PrecisionPlan) -> ErrorEstimate:
    assert plan.predicted_error is not None
    return plan.predicted_error


def cost(plan: precc.PrecisionPlan) -> float:
    assert plan.cost is not None
    return plan.cost.value


@pytest.mark.parametrize(
    "limits", [{"gradient": 0.2}, {"gradient": 0.02}, {"loss": 1e-3}, {"bias": 1e-6}, {"loss": 2e-4, "gradient": 0.01}]
)
def test_error_budgets_are_kept_and_used(lenet5: Analysis, limits: dict[str, float]) -> None:
    plan = ErrorBudget(**limits).assign(lenet5)
    error = known(plan)
    assert error == lenet5.predict(plan)
    spent = {"loss": rms(error), "gradient": error.gradient, "bias": abs(error.loss_mean)}
    shares = [spent[name] / limit for name, limit in limits.items()]
    assert max(shares) <= 1 + 1e-6
    assert max(shares) > 0.75 or "bias" in limits  # means of both signs cancel, and which do is not for choice
    assert set(plan.slots) == set(lenet5.operands)


def test_tighter_budgets_cost_more(lenet5: Analysis) -> None:
    plans = [ErrorBudget(gradient=limit).assign(lenet5) for limit in (0.3, 0.1, 0.03, 0.01, 0.003)]
    assert [cost(plan) for plan in plans] == sorted(cost(plan) for plan in plans)
    assert cost(plans[0]) < cost(plans[-1]) / 2


def test_the_plan_is_measured_as_predicted(lenet5: Analysis) -> None:
    plan = ErrorBudget(gradient=0.1).assign(lenet5)
    found = lenet5.measure(plan, 10)
    assert 1 / 1.6 < found.gradient / known(plan).gradient < 1.6


def test_it_is_cheaper_than_each_candidate_that_keeps_the_budget(lenet5: Analysis) -> None:
    model = precc.BitOps()
    plan = ErrorBudget(gradient=0.1).assign(lenet5)
    uniform = [precc.PrecisionPlan(own) for own in CANDIDATES]
    keep = [own for own in uniform if lenet5.predict(own).gradient <= 0.1]
    assert 0 < len(keep) < len(uniform)
    assert cost(plan) < min(cost_of(own, step_work(lenet5), model).value for own in keep)


@pytest.mark.parametrize("bits", [5, 6.5, 8, 12])
def test_bit_budgets(lenet5: Analysis, bits: float) -> None:
    plan = BitBudget(bits).assign(lenet5)
    assert bits * 0.95 < plan.average_bits <= bits * (1 + 1e-9)
    uniform = [lenet5.predict(precc.PrecisionPlan(own)) for own in formats_of_width(int(bits))]
    assert known(plan).gradient <= min(own.gradient for own in uniform) * 1.05
    assert rms(known(plan)) <= min(map(rms, uniform)) * 1.05


@pytest.mark.parametrize("bits", [24, 32, 1e9])
def test_bits_enough_for_no_error(mlp: Analysis, bits: float) -> None:
    plan = BitBudget(bits).assign(mlp)
    assert plan.average_bits > 17
    assert known(plan).gradient < 1e-3
    assert (bits < 32) or known(plan).gradient == 0


def test_cost_budgets(lenet5: Analysis) -> None:
    dear = CostBudget(5e9).assign(lenet5)
    cheap = CostBudget(2.5e9).assign(lenet5)
    assert 4.9e9 < cost(dear) <= 5e9
    assert 2.4e9 < cost(cheap) <= 2.5e9
    assert known(cheap).gradient > known(dear).gradient


@pytest.mark.parametrize(("share", "kept"), [(1.0, ["e2m1", "e4m3"]), (0.99, ["e2m1"]), (0.2, ["e2m1"])])
def test_a_cost_budget_is_measured_beside_the_candidates_within_it(
    mlp: Analysis, share: float, kept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit is within it; where none is, the cheapest one stands for all."""
    names = ["bf16", "e4m3", "e2m1"]
    assigner = CostBudget(1.0, candidates=names).assigner(mlp)
    limit = share * assigner.cost_of(precc.PrecisionPlan(scaled("e4m3")))
    asked = list[list[str]]()

    def noted(assigner: Any, precisions: Any) -> Limits:
        asked.append([str(one) for one in precisions])
        return best_uniform(assigner, precisions)

    monkeypatch.setattr("precc.policies.cost_budget.best_uniform", noted)
    with suppress(InfeasibleError):  # where none is within it
        CostBudget(limit, candidates=names).assign(mlp)
    assert [sorted(own) for own in asked] == [sorted(str(scaled(name)) for name in kept)]


def test_share_gives_the_readers_of_a_tensor_one_precision(lenet5: Analysis) -> None:
    plan = ErrorBudget(gradient=0.05, share="tensor").assign(lenet5)
    free = ErrorBudget(gradient=0.05).assign(lenet5)
    for tensor in step_work(lenet5).tensors:
        assert len({plan.precision(slot.name) for slot in tensor.slots}) == 1
    assert cost(free) < cost(plan)
    assert any(len({free.precision(slot.name) for slot in tensor.slots}) > 1 for tensor in step_work(lenet5).tensors)


def test_copies_are_paid_once_for_each_precision(lenet5: Analysis) -> None:
    """Where memory is dear, the readers of a tensor agree by themselves, far more often than chance has it."""
    model = precc.Energy(dram=1e-9)
    plan = ErrorBudget(gradient=0.05).assign(lenet5, cost=model)
    shared = [own for own in step_work(lenet5).tensors if len(own.slots) > 1]
    agree = [len({plan.precision(slot.name) for slot in own.slots}) == 1 for own in shared]
    assert sum(agree) >= 0.9 * len(agree)
    assert cost(plan) == pytest.approx(cost_of(plan, step_work(lenet5), model).value)


def test_rules_hold_and_their_cost_is_known(lenet5: Analysis) -> None:
    rules = [precc.Rule("conv2", keep="fp32"), precc.Rule("fc*", role="wgrad", format="e5m2", scaling="tensor")]
    plan = ErrorBudget(gradient=0.2).assign(lenet5, rules=rules)
    for name in lenet5.operands:
        if name.startswith("conv2/"):
            assert plan.precision(name) == precc.Precision("fp32")
        if name.startswith("fc") and "/wgrad." in name:
            assert plan.precision(name) == precc.Precision("e5m2", scaling="tensor")
    assert plan.rules == tuple(rules)
    assert cost(plan) == pytest.approx(cost_of(plan, step_work(lenet5), precc.BitOps()).value)
    assert plan.under(tuple(rules)) == plan


def test_rules_that_contradict_each_other(lenet5: Analysis) -> None:
    rules = [precc.Rule("fc1", role="fprop", keep="fp32"), precc.Rule("fc1", role="wgrad", keep="bf16")]
    ErrorBudget(gradient=0.2).assign(lenet5, rules=rules)
    with pytest.raises(PlanError, match="rules want different precisions for fc1/product/fprop.input"):
        ErrorBudget(gradient=0.2, share="tensor").assign(lenet5, rules=rules)
    with pytest.raises(PlanError, match="decides no slot"):
        ErrorBudget(gradient=0.2).assign(lenet5, rules=[precc.Rule("fc9", keep="fp32")])


def test_a_target_has_only_what_it_runs(lenet5: Analysis) -> None:
    plan = ErrorBudget(gradient=0.2).assign(lenet5, target="sm_90")
    target = precc.TARGETS["sm_90"]
    for work in step_work(lenet5).products:
        first, second = (plan.precision(slot.name) for slot in work.operands)
        assert target.product_problem(work, first, second) == ""
    assert any(own.format.name == "float8_e4m3fn" for own in plan.slots.values())
    free = ErrorBudget(gradient=0.2).assign(lenet5)
    assert any(own.format.name == "float6_e2m3fn" for own in free.slots.values())


def test_a_target_that_cannot_run_what_is_kept(lenet5: Analysis) -> None:
    rules = [precc.Rule("fc2", role="fprop", format="e3m2")]
    with pytest.raises(PlanError, match="sm_90 runs none of the pairs .* for fc2/product/fprop.input with fc2/"):
        ErrorBudget(gradient=0.2).assign(lenet5, target="sm_90", rules=rules)
    with pytest.raises(PlanError, match="unknown target 'sm_91'"):
        ErrorBudget(gradient=0.2).assign(lenet5, target="sm_91")


def test_inference_counts_the_forward_alone(lenet5: Analysis) -> None:
    plan = ErrorBudget(loss=1e-3, inference=True).assign(lenet5)
    assert {lenet5.records[name].slot.role for name in plan.slots} == {Role.FPROP}
    assert plan.precision("conv2/product/dgrad.weight") == precc.Precision("float32")
    assert rms(known(plan)) <= 1e-3
    whole = ErrorBudget(loss=1e-3).assign(lenet5)
    assert cost(plan) < cost(whole) / 2
    assert BitBudget(6, inference=True).assign(lenet5).average_bits <= 6
    with pytest.raises(PlanError, match="no gradient to limit"):
        ErrorBudget(gradient=0.1, inference=True)


def test_accumulators_are_chosen_and_priced(mlp: Analysis) -> None:
    policy = ErrorBudget(gradient=0.3, accumulators=[None, "e5m10", "bf16"])
    plan = policy.assign(mlp)
    chosen = set(plan.accumulators.values())
    assert len(plan.accumulators) == len(step_work(mlp).products)
    assert chosen & {precc.parse_accumulator("e5m10"), precc.parse_accumulator("bf16")}
    assert known(plan).gradient <= 0.3
    assert cost(plan) < cost(replace(policy, accumulators=(None,)).assign(mlp))
    tight = replace(policy, gradient=1e-4).assign(mlp)
    assert None in tight.accumulators.values()


def test_accumulators_need_sums(lenet5: Analysis) -> None:
    with pytest.raises(AnalysisError, match="sums=64"):
        ErrorBudget(gradient=0.2, accumulators=[None, "e5m10"]).assign(lenet5)


def test_infeasible_budgets_say_what_binds_and_what_is_feasible(lenet5: Analysis) -> None:
    policy = ErrorBudget(gradient=1e-6, loss=1.0, candidates=["e4m3", "bf16"])
    with pytest.raises(InfeasibleError, match=r"gradient is 0\.\d+ in the finest plan, and the limit 1e-06") as caught:
        policy.assign(lenet5)
    feasible = dict(part.split("=") for part in str(caught.value).split("Feasible: ")[1].split(", "))
    found = replace(policy, **{name: float(value) for name, value in feasible.items()}).assign(lenet5)
    assert known(found).gradient <= float(feasible["gradient"])
    with pytest.raises(
        InfeasibleError, match=r"costs 4 bits or less: the cheapest one costs 4\.\d+, of those that lose 0.1% at most"
    ):
        BitBudget(4, lost=1e-3).assign(lenet5)
    assert BitBudget(4, lost=0.1).assign(lenet5).average_bits == 4
    with pytest.raises(InfeasibleError, match="costs 3 bits or less: the cheapest one costs 4$"):
        BitBudget(3, lost=1.0).assign(lenet5)
    with pytest.raises(InfeasibleError, match="bit operations or less: the cheapest one costs"):
        CostBudget(1e3).assign(lenet5)
    with pytest.raises(InfeasibleError, match="each candidate loses more than 0.0%"):
        ErrorBudget(gradient=0.1, candidates=["e2m1"], lost=0.0).assign(lenet5)


def test_formats_that_become_infinite_are_not_chosen() -> None:
    torch.manual_seed(0)
    model = MLP()
    net = compiled(model)
    found = net.analyze(images() * 1e6, loss=lambda output: cross_entropy(output) * 1e-3)
    plan = BitBudget(16, candidates=["float16", "bfloat16", "float32", "e4m11"]).assign(found)
    assert math.isfinite(known(plan).gradient)
    assert plan.precision("fc1/product/fprop.input").format.name not in ("float16", "e4m11")


def test_no_or_another_analysis() -> None:
    with pytest.raises(AnalysisError, match=r"net.set_plan\(ErrorBudget"):
        precc.compile(MLP(), policy=ErrorBudget(gradient=0.1))
    with pytest.raises(AnalysisError, match="what net.analyze returns"):
        BitBudget(5).assign("step.precc")
    with pytest.raises(AnalysisError, match="FirstLastHigh chooses from an analysis"):
        FirstLastHigh("e4m3").assign()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ErrorBudget(), PlanError, "needs loss="),
        (lambda: ErrorBudget(gradient=-1), PlanError, "0 or more, not -1"),
        (lambda: ErrorBudget(gradient=math.nan), PlanError, "0 or more, not nan"),
        (lambda: ErrorBudget(gradient="0.1"), PlanError, "0 or more, not '0.1'"),
        (lambda: BitBudget(0), PlanError, "average_bits is 0, not a finite number above 0"),
        (lambda: BitBudget(True), PlanError, "average_bits is True"),
        (lambda: CostBudget(math.inf), PlanError, "the limit of the cost is inf"),
        (lambda: ErrorBudget(gradient=0.1, candidates=[]), PlanError, "sequence of formats"),
        (lambda: ErrorBudget(gradient=0.1, candidates="e4m3"), PlanError, "sequence of formats"),
        (lambda: ErrorBudget(gradient=0.1, candidates=["e99m1"]), FormatError, "e99m1"),
        (lambda: ErrorBudget(gradient=0.1, accumulators=[]), PlanError, "sequence of accumulators"),
        (lambda: ErrorBudget(gradient=0.1, share="layer"), PlanError, "'nothing' or 'tensor'"),
        (lambda: ErrorBudget(gradient=0.1, lost=2), PlanError, "share, 0 to 1"),
        (lambda: ErrorBudget(gradient=0.1, inference=1), PlanError, "True or False"),
        (lambda: ErrorBudget(gradient=0.1, solver=None), PlanError, "least_error"),
        (lambda: FirstLastHigh("e4m3", first=-1), PlanError, "0 or more"),
        (lambda: FirstLastHigh(3), PlanError, "no policy"),
    ],
)
def test_options_that_make_no_sense(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_what_is_no_cost_model(lenet5: Analysis) -> None:
    for wrong in (precc.BitOps, "bit-ops", 3):
        with pytest.raises(PlanError, match="no cost model"):
            ErrorBudget(gradient=0.1).assign(lenet5, cost=wrong)  # type: ignore[arg-type]


def test_first_and_last_high(lenet5: Analysis) -> None:
    plan = FirstLastHigh("e4m3", "fp32").assign(lenet5)
    for name in lenet5.operands:
        high = name.startswith(("conv1/", "fc3/"))
        assert plan.precision(name).format.name == ("float32" if high else "float8_e4m3fn")
    inner = FirstLastHigh(BitBudget(10), "fp16").assign(lenet5)
    assert inner.average_bits <= 10
    assert inner.precision("fc3/product/wgrad.input") == precc.Precision("fp16")
    assert known(inner) == lenet5.predict(inner)
    rules = [precc.Rule("conv1", keep="bf16")]
    kept = FirstLastHigh(BitBudget(10), "fp16", first=0, last=2).assign(lenet5, rules=rules)
    assert kept.precision("conv1/product/fprop.weight") == precc.Precision("bf16")
    assert kept.precision("fc2/product/fprop.weight") == precc.Precision("fp16")


def test_the_front(lenet5: Analysis) -> None:
    plans = precc.pareto(lenet5, points=10)
    costs, errors = [cost(plan) for plan in plans], [known(plan).gradient for plan in plans]
    assert costs == sorted(costs)
    assert errors[0] > 10 * errors[-2]
    assert all("1% more cost" in plan.provenance.budget for plan in plans[:-1])
    middle = plans[len(plans) // 2]
    same = ErrorBudget(gradient=known(middle).gradient, loss=rms(known(middle))).assign(lenet5)
    assert cost(same) < 1.1 * cost(middle)
    only = precc.pareto(lenet5, points=4, options=precc.Front(candidates=["e4m3", "fp32"]))
    assert {own.format.name for plan in only for own in plan.slots.values()} == {"float8_e4m3fn", "float32"}
    with pytest.raises(PlanError, match="at least 2"):
        precc.pareto(lenet5, points=1)


def test_what_more_cost_buys_on_a_front() -> None:
    """Twice the cost for a quarter of the error: 1% more of it buys ``1 - 1.01**-2``."""
    solution = Solution(np.zeros(0, np.int64), 0.0, np.zeros(3), 0.0)
    error = ErrorEstimate(0.0, 0.0, 0.0, StandardErrors(0.0, 0.0, 0.0))
    found = [
        Scored(
            precc.PrecisionPlan("e4m3"), error, PlanCost(price, "J", "Energy()"), np.array([16.0, own, 0.0]), solution
        )
        for price, own in ((1.0, 1600.0), (2.0, 100.0))
    ]
    assert _budget(found, 0, Limits(4.0, 1.0)) == "front: 1% more cost, 1.97% less error"
    assert _budget(found, 1, Limits(4.0, 1.0)) == "front: the finest plan"


def test_errors_of_the_loss_are_linearised_in_their_means(mlp: Analysis) -> None:
    """The square of a sum of means, about a reference: each mean times the sum there, beside the variances."""
    tables = BitBudget(6, candidates=["e4m3", "bf16"]).assigner(mlp).tables
    errors = tables.choices.errors
    groups, slopes = len(tables.choices.graph), np.zeros((len(errors.names), 1))
    loss, more = (
        tables.problem(Reference(slopes, np.array([sums])), Limits(1.0, 1.0)).errors[0] for sums in (0.0, 100.0)
    )
    means = errors.by_group(np.abs(errors.means), groups)
    assert loss == pytest.approx(errors.by_group(errors.variances, groups))
    assert (means.max(1) > 0).any()
    assert more - loss == pytest.approx(100.0 * means, rel=1e-9, abs=1e-20)


@pytest.mark.parametrize(("position", "legal"), [(0, "e5m2"), (1, "e4m3")])
def test_accumulators_take_each_operand_in_its_place(position: int, legal: str) -> None:
    """Of gradients in e5m2 and weights in e4m3, in this order."""
    slots = tuple(Slot.parse(f"fc/product/dgrad.{name}") for name in ("grad_output", "weight"))
    work = StepWork((ProductWork(slots, (8, 8), 64, 8),), ())
    graph = group_graph(work, Grouping(Share.NOTHING, sums=True))
    precisions = tuple(precc.Precision(name) for name in ("e5m2", "e4m3"))
    palette = Palette.of(precisions, (precc.ACCUMULATORS["hopper_fp8_e5m2_e4m3"],), ())
    _, ends, tables = choice_costs(graph, work, palette, BitOps(), precc.TARGETS["cpu-emulated"])
    (table,) = (own for pair, own in zip(ends.tolist(), tables, strict=True) if pair == [position, 2])
    assert np.isfinite(table[:, 0]).tolist() == [own == precc.Precision(legal) for own in precisions]


def test_a_net_runs_the_plan() -> None:
    torch.manual_seed(0)
    net = compiled(MLP())
    found = net.analyze(images(), loss=cross_entropy)
    plan = ErrorBudget(gradient=0.1).assign(found)
    net.set_plan(plan)
    assert "under the plan (its budget: gradient 0.1)" in net.explain("fc1/fprop.weight")
    cross_entropy(net(images())).backward()
    assert net.plan == plan
    assert net.plan.average_bits == pytest.approx(plan.average_bits)


def test_plans_remember_where_they_come_from(lenet5: Analysis, tmp_path: Path) -> None:
    plan = ErrorBudget(gradient=0.1, candidates=["e2m3", "fp16"]).assign(lenet5)
    assert plan.provenance.policy == "ErrorBudget(candidates=['float6_e2m3fn/tensor:float32', 'float16'], gradient=0.1)"
    assert plan.provenance.budget == "gradient 0.1"
    assert plan.provenance.analysis == lenet5.digest
    plan.save(tmp_path / "plan.json")
    again = precc.PrecisionPlan.load(tmp_path / "plan.json")
    assert again == plan
    assert again.provenance == plan.provenance
    assert again.to_json() == plan.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": 3}, "policy is 3"),
        ({"predicted_error": {"loss": 1}}, "malformed"),
        ({"predicted_error": 5}, "malformed"),
        ({"cost": {"value": "much", "unit": "J", "model": ""}}, "malformed"),
        ({"cost": {"value": 1.0, "price": 2}}, "unknown entry 'price'"),
        ({"who": "me"}, "unknown entry 'who'"),
    ],
)
def test_damaged_provenance(lenet5: Analysis, change: dict[str, Any], message: str) -> None:
    document = json.loads(ErrorBudget(gradient=0.1).assign(lenet5).to_json())
    document["provenance"].update(change)
    with pytest.raises(PlanError, match=message):
        precc.PrecisionPlan.from_json(json.dumps(document))


def test_saved_analyses_give_plans_as_good(lenet5: Analysis, tmp_path: Path) -> None:
    lenet5.save(tmp_path / "step.precc")
    again = Analysis.load(tmp_path / "step.precc")
    assert again.digest == lenet5.digest
    plan = ErrorBudget(gradient=0.1).assign(again)
    assert cost(plan) == pytest.approx(cost(ErrorBudget(gradient=0.1).assign(lenet5)), rel=0.03)
    assert lenet5.predict(plan).gradient == pytest.approx(known(plan).gradient, rel=1e-3)


def test_the_digest_tells_steps_apart(mlp: Analysis, lenet5: Analysis) -> None:
    torch.manual_seed(1)
    assert len({mlp.digest, lenet5.digest, analysed(MLP()).digest}) == 3


def test_sums_of_slots_are_the_prediction(lenet5: Analysis) -> None:
    """What the problem adds up is within a few percent of the whole analysis, for a plan in one format."""
    for name in ("e4m3", "bf16"):
        precision = precc.scaled(name)
        alone = {slot: lenet5.alone(slot, precision) for slot in lenet5.operands}
        sizes = {slot: own.mean_square for slot, own in alone.items() if own.mean_square}
        slopes = lenet5.flip_slopes(sizes)
        flips = sum(size * slopes.get(slot, 0.0) for slot, size in sizes.items())
        whole = lenet5.predict(precc.PrecisionPlan(precision))
        assert math.sqrt(sum(own.gradient for own in alone.values()) + flips) == pytest.approx(whole.gradient, rel=0.15)
        assert math.sqrt(sum(own.loss_variance for own in alone.values())) == pytest.approx(whole.loss, rel=0.15)
        assert sum(own.loss_mean for own in alone.values()) == pytest.approx(whole.loss_mean, rel=0.05)


def test_the_graph_of_groups(lenet5: Analysis) -> None:
    work = step_work(lenet5)
    free = group_graph(work, Grouping(Share.NOTHING, copies=True))
    kinds = nx.get_node_attributes(free, "kind")
    assert sum(kind is GroupKind.SLOTS for kind in kinds.values()) == len(lenet5.operands)
    assert sum(kind is GroupKind.COPY for kind in kinds.values()) == len(work.tensors)
    for reader, _, data in free.edges(data=True):
        if data["kind"] == "copy":  # of the reader alone
            assert data["tensor"].slots == free.nodes[reader]["slots"]
    shared = group_graph(work, Grouping(Share.TENSOR, sums=True))
    assert shared.number_of_nodes() == len(work.tensors) + len(work.products)


def test_work_is_that_of_the_step(lenet5: Analysis) -> None:
    work = {own.operands[0].op + "/" + own.role.value: own for own in step_work(lenet5).products}
    conv = work["conv2/product/fprop"]
    assert (conv.multiply_adds, conv.outputs, conv.terms) == (32 * 240_000, 32 * 1_600, 150)
    assert sorted(conv.elements) == [2_400, 32 * 6 * 14 * 14]
    wgrad = work["fc3/product/wgrad"]
    assert (wgrad.terms, wgrad.outputs) == (32, 840)


def test_the_base_is_no_policy(lenet5: Analysis) -> None:
    with pytest.raises(NotImplementedError):
        BudgetPolicy().assign(lenet5)


class Block(nn.Module):
    """A product of its own, and two inside."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 8) * 0.3)
        self.inside = nn.ModuleDict({"a[0]": nn.Linear(8, 8), "b": nn.Linear(8, 8)})

    def forward(self, x: Tensor) -> Tensor:
        return self.inside["b"](torch.relu(self.inside["a[0]"](x @ self.weight)))


def test_first_and_last_are_products_and_not_modules() -> None:
    torch.manual_seed(0)
    net = precc.compile(nn.Sequential(Block(), nn.ReLU(), nn.Linear(8, 3)), backend="reference")
    analysis = net.analyze(torch.randn(20, 12), loss=lambda y: y.square().mean())
    for first, wanted in ((1, {"0/product"}), (2, {"0/product", "0.inside._modules['a[0]']/product"})):
        plan = FirstLastHigh("e4m3", first=first).assign(analysis)
        high = {own.op for own in map(Slot.parse, plan.slots) if plan.precision(own.name).format.name == "bfloat16"}
        assert high == wanted | {"2/product"}
    with pytest.raises(PlanError, match="sm_90"):
        FirstLastHigh("e3m2").assign(analysis, target="sm_90")
    assert FirstLastHigh("bf16").assign(analysis, cost=BitOps(), target="sm_90").cost is not None


def test_rules_over_a_plan_forget_what_was_predicted() -> None:
    torch.manual_seed(0)
    net = precc.compile(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)), backend="reference")
    analysis = net.analyze(torch.randn(20, 12), loss=lambda y: y.square().mean())
    plan = ErrorBudget(gradient=0.1).assign(analysis)
    assert plan.under([Rule("0", keep="fp32")]).predicted_error is None
    same = plan.precision("0/product/fprop.weight")
    kept = plan.under([Rule("0", role="fprop", operand="weight", format=same.format, scaling=same.scaling)])
    assert kept.predicted_error == plan.predicted_error
    with pytest.raises(PlanError):
        plan.diff("plan.json")  # type: ignore[arg-type]


def test_plans_for_inference_need_no_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).requires_grad_(False)
    with pytest.warns(precc.PrecisionWarning, match="gradient"):
        analysis = precc.compile(model, backend="reference").analyze(
            torch.randn(20, 12), loss=lambda y: y.square().mean()
        )
    plan = ErrorBudget(loss=1e-2, inference=True).assign(analysis, cost=Memory(training=False))
    assert plan.predicted_error is not None
    with pytest.raises(PlanError, match="training=False"):
        ErrorBudget(loss=1e-2, inference=True).assign(analysis, cost=Memory())


@pytest.mark.parametrize("value", [math.nan, -1.0, None, "1", torch.ones(())])
def test_costs_that_are_none(value: Any) -> None:
    class Strange(BitOps):
        def product(self, *arguments: Any) -> Any:
            return value

    torch.manual_seed(0)
    net = precc.compile(nn.Linear(12, 8), backend="reference")
    analysis = net.analyze(torch.randn(20, 12), loss=lambda y: y.square().mean())
    for assign in (ErrorBudget(gradient=0.1).assign, CostBudget(1e6).assign, pareto):
        with pytest.raises(PlanError, match="where a cost is"):
            assign(analysis, cost=Strange())
    with pytest.raises(PlanError, match="many plans"):
        Front().assign(analysis)
