"""Later budgets are quick, as an analysis keeps what does not depend on them; plans do not depend on what it keeps."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import precc
from precc.analysis.analysis import Analysis
from precc.analysis.prediction import Prediction
from precc.analysis.rounded_sample import RoundedSamples
from precc.assignment.candidates import scaled
from precc.cost.bit_ops import BitOps
from precc.cost.work import ProductWork
from precc.formats import parse_format
from precc.models.lenet5 import LeNet5
from precc.policies.bit_budget import BitBudget
from precc.policies.budget_policy import BudgetPolicy
from precc.policies.cost_budget import CostBudget
from precc.policies.error_budget import ErrorBudget
from precc.precision import Precision
from precc.rule import Rule

#: A candidate under another name, which does not count when formats are compared.
ALIAS = replace(parse_format("e4m3"), name="mine")

BUDGETS: tuple[tuple[BudgetPolicy, dict[str, Any]], ...] = (
    (ErrorBudget(gradient=0.1), {}),
    (ErrorBudget(loss=1e-3, gradient=0.03), {}),
    (BitBudget(6), {}),
    (ErrorBudget(gradient=0.1), {"cost": precc.Energy()}),
    (CostBudget(2e9), {}),
    (ErrorBudget(gradient=0.1, share="tensor"), {}),
    (ErrorBudget(gradient=0.1), {"cost": BitOps(sum_weight=1)}),  # an equal model that says so otherwise
    (ErrorBudget(gradient=0.1), {"rules": [Rule("conv1", keep="bf16")]}),
    (ErrorBudget(gradient=0.2, candidates=["e4m3", "bf16"]), {}),
    (ErrorBudget(gradient=0.2, candidates=[scaled(ALIAS), "bf16"]), {}),
    (ErrorBudget(loss=0.01, inference=True), {}),
    (BitBudget(6.5), {}),
    (ErrorBudget(gradient=0.3, accumulators=[None, "e5m10"]), {}),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    x, y = torch.randn(2, 1, 28, 28), torch.arange(2)  # sums over few elements, one by one
    options = precc.AnalysisOptions(samples=512, sums=16)
    net = precc.compile(LeNet5(), backend="reference")
    path = tmp_path_factory.mktemp("analyses") / "step.precc"
    net.analyze(x, loss=lambda output: F.cross_entropy(output, y), options=options).save(path)
    return path


def planned(analysis: Analysis, number: int) -> str:
    policy, options = BUDGETS[number]
    return policy.assign(analysis, **options).to_json()


@pytest.fixture(scope="module")
def cold(saved: Path) -> list[str]:
    """Of each budget, the first that its analysis is asked for."""
    return [planned(Analysis.load(saved), number) for number in range(len(BUDGETS))]


# Either order meets every budget warm and cold; both are for `make test-all`.
@pytest.mark.parametrize("order", [pytest.param(1, marks=pytest.mark.slow), -1], ids=["forward", "backward"])
def test_plans_are_those_of_an_analysis_that_was_asked_nothing(saved: Path, cold: list[str], order: int) -> None:
    warm = Analysis.load(saved)
    for number in [*range(len(BUDGETS))[::order], *range(0, len(BUDGETS), 3)]:
        assert planned(warm, number) == cold[number], BUDGETS[number]


def test_names_of_formats_are_those_of_the_call(cold: list[str]) -> None:
    assert '"mine"' in cold[9]
    assert '"mine"' not in cold[8]


def test_calibrations_count_from_when_they_are_noted(saved: Path) -> None:
    warm, other = Analysis.load(saved), Analysis.load(saved)
    before = planned(warm, 0)
    for own in (warm, other):
        own.calibration.note("fprop.weight", loss=None, gradient=2.0)
    assert planned(warm, 0) == planned(other, 0) != before


@dataclass
class Changing:
    """A user's cost model that answers otherwise from one day to the next."""

    factor: float = 1.0
    unit: str = "bits"
    base: BitOps = field(default_factory=BitOps)

    def product(self, work: ProductWork, pair: tuple[int, int], first: Precision, second: Precision) -> float:
        dear = self.factor if work.operands[0].layer == "fc1" else 1.0
        return dear * self.base.product(work, pair, first, second)

    def __getattr__(self, name: str) -> Callable[..., float]:
        found: Callable[..., float] = getattr(self.base, name)
        return found


def test_cost_models_of_others_are_asked_anew(saved: Path) -> None:
    warm, model, policy = Analysis.load(saved), Changing(), ErrorBudget(gradient=0.1)
    before = policy.assign(warm, cost=model)
    model.factor = 100.0
    after = policy.assign(warm, cost=model)
    assert after == policy.assign(Analysis.load(saved), cost=Changing(100.0)) != before


def test_rounded_samples_that_are_forgotten_are_found_again(saved: Path) -> None:
    analysis = Analysis.load(saved)
    sensitivities = analysis.findings.sensitivities
    few = Prediction(sensitivities, analysis.findings.gains, analysis.calibration, _rounded=RoundedSamples(room=0))
    for name in ("e2m1", "e4m3", "bf16"):
        for plan in (precc.PrecisionPlan(scaled(name)), precc.PrecisionPlan(scaled("e3m2"))):
            assert few.of(plan) == analysis.predict(plan)
    assert len(few._rounded._found) == 1


def test_what_is_made_of_an_analysis_is_made_once(saved: Path) -> None:
    analysis, made = Analysis.load(saved), list[int]()

    def make() -> nn.Module:
        made.append(len(made))
        return nn.Identity()

    assert analysis.once("one", make) is analysis.once("one", make) is not analysis.once("other", make)
    analysis.calibration.note("fprop.weight", loss=2.0, gradient=None)
    analysis.once("one", make)
    assert len(made) == 3
    replace(analysis).once("one", make)
    assert len(made) == 4


def test_what_belongs_to_an_earlier_calibration_is_forgotten(saved: Path) -> None:
    analysis = Analysis.load(saved)
    ErrorBudget(gradient=0.1).assign(analysis)
    made, found = len(analysis._made), len(analysis._prediction._found)
    for round_ in range(3):
        analysis.calibration.note("fprop.weight", loss=None, gradient=1.1 + round_)
        ErrorBudget(gradient=0.1).assign(analysis)
        assert len(analysis._made) <= made
        assert len(analysis._prediction._found) <= 2 * found
    for key in range(40):
        analysis.once(key, dict)
    assert len(analysis._made) == 33
