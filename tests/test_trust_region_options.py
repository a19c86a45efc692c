"""What the trust region does when it is told to: gates, points, budgets, rejections, going back to coarser levels."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc import TrustRegion
from precc.control.region_errors import error_between, relative_error
from precc.errors import ClosureError, ControllerError, PlanError
from precc.models.lenet5 import LeNet5
from tests.few_always import few_always
from tests.nets import Convolutional, uniform
from tests.test_trust_region import FP32, quadratic, values

COARSE = ("float16", "float32")

#: Error of the loss in formats coarser than float32, by the first parameter.
Error = Callable[[Tensor], Tensor | float]


def erroneous(
    start: list[float], diagonal: list[float], error: Error
) -> tuple[precc.PrecisionModule, Callable[[], Tensor]]:
    """A quadratic whose losses in float16 are off, beside the 1e-3 or so that float16 itself makes."""
    net, closure = quadratic(start, diagonal)

    def loss() -> Tensor:
        own = closure()
        coarse = "float32" not in str(net.plan.default)
        return own + error(net.x) if coarse else own

    return net, loss


def at_x(start: list[float], there: float, here: float = 0.0) -> Error:
    """An error at the start, and another elsewhere."""
    begin = torch.tensor([start])
    return lambda x: here if torch.equal(x.detach(), begin) else there


def test_an_error_that_cancels_passes_the_gate_of_the_difference_alone() -> None:
    # ||g|| = 5, pred = 2.5, rho = (12.5 - 10.125) / 2.5 = 0.95; the same error everywhere
    for gate, level in (("source", 1), ("difference", 0)):
        net, closure = erroneous([3.0, 4.0], [1.0, 1.0], lambda _: 7.0)
        opt = TrustRegion(net, radius=0.5, levels=COARSE, gate=gate)
        opt.step(closure)
        assert opt.level == level
        assert opt.radius == 1.0
        assert values(net) == pytest.approx([2.7, 3.6])


@pytest.mark.parametrize(("error", "level"), [(0.2, 0), (0.3, 1)])
def test_the_gate_of_the_difference_by_hand(error: float, level: int) -> None:
    net, closure = erroneous([3.0, 4.0], [1.0, 1.0], at_x([3.0, 4.0], there=-error))
    opt = TrustRegion(net, radius=0.5, levels=COARSE, gate="difference")  # D = error, the bound is 0.25
    opt.step(closure)
    assert opt.level == level
    row = net.history[-1]
    assert row.event == "accept"
    assert row.epsilon == pytest.approx(0.0 if level else error, abs=5e-3)


def test_an_error_at_the_other_point() -> None:
    for points, level in (("x", 0), ("both", 1)):
        net, closure = erroneous([3.0, 4.0], [1.0, 1.0], at_x([3.0, 4.0], there=-0.5))
        opt = TrustRegion(net, radius=0.5, levels=COARSE, points=points)  # the bound is 0.125
        opt.step(closure)
        assert opt.level == level, "the trial looks better than it is by 0.5"


def test_the_step_too_long_is_at_fault_where_no_arithmetic_has_a_loss_there() -> None:
    assert error_between(math.inf, math.nan) == 0.0
    assert error_between(math.inf, 1.0) == math.inf
    assert math.isinf(error_between(1.0, math.inf))
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    begin = net.x.detach().clone()
    opt = TrustRegion(net, radius=0.5, levels=COARSE, gate="difference")
    opt.step(lambda: closure() + (0.0 if torch.equal(net.x.detach(), begin) else math.inf))
    assert (opt.level, opt.radius) == (0, 0.25)
    assert opt.events == {"nonfinite": 1, "reject": 1}


def test_the_gradient_as_the_momentum_s_other_reading() -> None:
    net, closure = quadratic([1.0, 1.0], [1.0, 2.0])
    opt = TrustRegion(net, radius=0.1, levels=FP32, momentum=0.5, momentum_form="gradient", eta1=1e-6, eta2=1 - 1e-9)
    g0 = torch.tensor([1.0, 2.0])
    opt.step(closure)
    x1 = torch.tensor([1.0, 1.0]) - 0.1 * g0 / g0.norm()
    assert values(net) == pytest.approx(x1.tolist())
    g1 = g0 * x1
    direction = g0 + 0.5 * g1
    opt.step(closure)
    assert values(net) == pytest.approx((x1 - 0.1 * direction / direction.norm()).tolist())
    predicted = 0.1 * float(g1 @ direction) / float(direction.norm())
    assert net.history[-1].predicted_reduction == pytest.approx(predicted, rel=1e-6)


def test_the_gate_of_the_gradient() -> None:
    for share, level in ((0.19, 0), (0.21, 1)):
        # an error of the gradient alone: each element is off by this share
        net, closure = erroneous([3.0, 4.0], [1.0, 1.0], lambda x, share=share: share * _silent(x.square().sum() / 2))
        opt = TrustRegion(net, radius=0.5, levels=COARSE, zeta=0.2)
        opt.step(closure)
        assert opt.level == level
    assert "gradient's error 0.21 is not within zeta 0.2" in net.history[0].reason


def _silent(x: Tensor) -> Tensor:
    """Nothing, with the gradient of x."""
    return x - x.detach()


def test_relative_errors_of_gradients() -> None:
    p, q = torch.zeros(2), torch.zeros(1)
    exact = {p: torch.tensor([3.0, 0.0]), q: torch.tensor([4.0])}
    assert relative_error({p: torch.tensor([3.0, 0.3]), q: torch.tensor([4.4])}, exact) == pytest.approx(0.1)
    zero = {p: torch.zeros(2)}
    assert relative_error(zero, zero) == 0.0
    assert relative_error({p: torch.ones(2)}, zero) == math.inf


def test_the_tolerant_ratio() -> None:
    # pred 2.5, actual 2.375 + 0.12 - 1.5; with r = 10 and epsilon 0.12: (0.995 + 1.2) / 3.7 = 0.59, without 0.398
    for tolerance, radius in ((0.0, 0.5), (40.0, 1.0)):
        net, closure = erroneous([3.0, 4.0], [1.0, 1.0], at_x([3.0, 4.0], here=0.12, there=1.5))
        opt = TrustRegion(net, radius=0.5, levels=COARSE, noise_tolerance=tolerance)
        opt.step(closure)
        assert (opt.level, opt.radius) == (0, radius)


def test_a_rejected_step_is_undone_kept_or_taken_back_to_where_an_evaluation_was_good() -> None:
    found = {}
    for reaction in ("step", "shrink", "restore"):
        net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
        opt = TrustRegion(net, radius=0.5, levels=FP32, evaluate_every=3, on_reject=reaction, momentum=0.5)
        points = []
        for number in range(4):
            if number == 3:
                opt.param_groups[0]["lr"] = 20.0  # far over the minimum
            opt.step(closure)
            points.append(values(net))
        assert opt.events == {"accept": 3, "reject": 1}
        assert opt.radius == 10.0
        found[reaction] = points
    assert found["step"][3] == found["step"][2]
    assert found["restore"][3] == found["restore"][0] != found["restore"][2]
    shrunk = found["shrink"]
    assert math.dist(shrunk[3], shrunk[2]) == pytest.approx(20.0)
    assert net.history[-1].event == "reject"


def test_going_back_takes_momentum_and_buffers_along() -> None:
    torch.manual_seed(0)
    net = precc.compile(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), backend="reference")
    x = torch.randn(8, 4)
    opt = TrustRegion(net, radius=0.01, levels=FP32, evaluate_every=2, on_reject="restore", momentum=0.5)

    def closure() -> Tensor:
        return (net(x) - 1).abs().mean()

    opt.step(closure)
    held = copy.deepcopy(net.state_dict())
    ball = [own["momentum_buffer"].clone() for own in opt.state.values()]
    opt.step(closure)
    opt.param_groups[0]["lr"] = 1e4
    opt.step(closure)
    assert opt.events["reject"] == 1
    assert all(torch.equal(own, held[name]) for name, own in net.state_dict().items())
    assert all(torch.equal(a, own["momentum_buffer"]) for a, own in zip(ball, opt.state.values(), strict=True))


def test_steps_are_the_same_however_rejections_are_undone_if_each_is_evaluated() -> None:
    found = []
    for reaction in ("step", "restore"):
        net, closure = quadratic([1.0, 1.0], [1.0, 30.0])
        opt = TrustRegion(net, radius=0.5, levels=FP32, on_reject=reaction, momentum=0.5)
        for _ in range(10):
            opt.step(closure)
        assert opt.events["reject"] > 1
        found.append(values(net))
    assert found[0] == found[1]


def test_a_step_whose_loss_is_not_finite_is_undone_in_any_case() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = TrustRegion(net, radius=0.5, levels=FP32, on_reject="shrink")
    begin = net.x.detach().clone()
    opt.step(lambda: closure() + (0.0 if torch.equal(net.x.detach(), begin) else math.nan))
    assert values(net) == [3.0, 4.0]


def test_a_level_goes_back_after_gates_in_a_row() -> None:
    net, closure = erroneous([3.0, 4.0], [1.0, 1.0], lambda _: size[0])
    size = [0.3]
    opt = TrustRegion(net, radius=0.5, levels=COARSE, monotone=False, coarsen_after=2, eta2=1 - 1e-9)
    opt.step(closure)  # epsilon 0.3 of 0.125
    assert opt.level == 1
    size[0] = 0.03  # of 0.031 and less, a quarter of the bound, which shrinks with the gradient
    levels = []
    for _ in range(3):
        opt.step(closure)
        levels.append(opt.level)
    assert levels == [1, 1, 1], "two gates in a row, then a look: it is not small enough"
    size[0] = 0.0
    for _ in range(2):
        opt.step(closure)
        levels.append(opt.level)
    assert levels[3:] == [1, 0], "the gates are counted anew, from the third of these steps on"
    assert opt.events["coarsen"] == 1
    assert [row.event for row in net.history][-1] == "coarsen"
    opt.step(closure)
    assert opt.level == 0


@pytest.mark.parametrize(("share", "level"), [(0.21, 1), (0.19, 0)])
def test_a_level_whose_gradient_is_not_within_zeta_is_not_gone_back_to(share: float, level: int) -> None:
    net, closure = erroneous([3.0, 4.0], [1.0, 1.0], lambda x: extra[0] + share * _silent(x.square().sum() / 2))
    extra = [7.0]  # on the first step alone
    opt = TrustRegion(net, radius=0.5, levels=COARSE, zeta=0.2, monotone=False, coarsen_after=1, eta2=0.79)
    opt.step(closure)
    assert opt.level == 1
    extra[0] = 0.0
    opt.step(closure)
    assert opt.level == level
    assert opt.events["coarsen"] == 1 - level


def lenet(seed: int = 0, **options: Any) -> tuple[precc.PrecisionModule, TrustRegion, Callable[[], Tensor]]:
    torch.manual_seed(seed)
    net = precc.compile(LeNet5(), backend="reference")
    x, y = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    analysis = precc.AnalysisOptions(samples=512)
    opt = TrustRegion(net, loss=F.cross_entropy, analysis=analysis, **options)
    return net, opt, lambda: opt.loss(net(x), y)


def test_predicted_errors_are_those_of_the_analysis() -> None:
    net, opt, closure = lenet(levels=("e4m3", "float32"), radius=1e-3, epsilon="predicted", z=3.0)
    opt.step(closure)
    row = net.history[0]
    assert row.event == "refine"
    torch.manual_seed(0)
    other = precc.compile(LeNet5(), backend="reference")
    x, y = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    analysis = other.analyze(
        x, loss=lambda output: F.cross_entropy(output, y), options=precc.AnalysisOptions(samples=512)
    )
    estimate = analysis.predict(precc.Uniform("e4m3").assign())
    assert row.epsilon == pytest.approx(abs(estimate.loss_mean) + 3 * estimate.loss, rel=1e-6)


def test_predictions_at_both_points() -> None:
    found = []
    for points in ("x", "both"):
        net, opt, closure = lenet(levels=("float16",), radius=0.5, epsilon="predicted", points=points)
        opt.step(closure)
        (row,) = net.history
        assert row.epsilon is not None
        found.append(row.epsilon)
    assert found[1] >= found[0] > 0


def test_plans_from_a_budget() -> None:
    net, opt, closure = lenet(levels="budget", radius=0.1)
    for _ in range(4):
        opt.step(closure)
    rows = list(net.history)
    assert rows[0].event == "budget"
    assert rows[0].predicted_reduction is not None
    assert rows[0].budget == pytest.approx(0.9 * 0.05 * rows[0].predicted_reduction)
    for row in rows[1:]:
        assert row.epsilon is not None
        assert row.predicted_reduction is not None
        if row.event == "accept":
            assert row.epsilon < 0.05 * row.predicted_reduction
    budgets = [row.budget for row in rows if row.budget is not None]
    assert budgets == sorted(budgets, reverse=True)
    assert opt.budget == budgets[-1]
    assert net.plan.predicted_error is not None
    assert net.plan.predicted_error.loss * math.sqrt(5) <= opt.budget
    assert net.plan.predicted_error.gradient <= 0.125
    assert net.plan.average_bits < 32


def test_a_budget_that_is_given_and_candidates() -> None:
    net, opt, closure = lenet(levels="budget", budget=0.5, candidates=["e4m3", "float32"], radius=0.3)
    opt.step(closure)
    assert net.history[0].reason == "the first budget, which was given"
    assert opt.budget is not None
    assert opt.budget <= 0.5
    assert {own.format.name for own in net.plan.slots.values()} <= {"float8_e4m3fn", "float32"}


@pytest.mark.parametrize("options", [{}, {"zeta": 1e-4}, {"epsilon": "predicted"}, {"gate": "difference"}])
def test_a_budget_below_what_a_rule_rounds_ends_in_the_finest_plan(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    net = precc.compile(model, backend="reference", rules=[precc.Rule("2", format="e4m3")])
    x, y = torch.randn(16, 8), torch.arange(16) % 4
    opt = TrustRegion(net, loss=F.cross_entropy, levels="budget", radius=1e-4, **options)
    for _ in range(3):
        opt.step(lambda: opt.loss(net(x), y))
    assert opt.steps == 3
    assert opt.plan == uniform("float32")
    assert opt.events["ungated"] >= 1
    assert opt.events["refine"] < 10


def test_a_rule_that_overflows_is_rejected_where_no_budget_helps() -> None:
    net = precc.compile(nn.Linear(2, 1), backend="reference", rules=[precc.Rule("", format="e5m10")])
    opt = TrustRegion(net, loss=lambda output: output.square().sum(), levels="budget", budget=1.0)
    opt.step(lambda: opt.loss(net(torch.full((1, 2), 1e6))))
    assert opt.events["nonfinite"] >= 1
    assert opt.radius < 0.1


def test_a_budget_without_a_loss() -> None:
    net, _ = quadratic([3.0, 4.0], [1.0, 1.0])
    with pytest.raises(ControllerError, match="made without loss="):
        TrustRegion(net).loss(torch.zeros(1))
    net = precc.compile(nn.Linear(4, 2), backend="reference")
    opt = TrustRegion(net, levels="budget")
    with pytest.raises(ControllerError, match=r"needs the loss: TrustRegion\(net, loss=loss_fn"):
        opt.step(lambda: net(torch.ones(3, 4)).square().sum())
    assert opt.steps == 0


def test_gradient_scalers_are_told_that_they_are_not_needed() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = TrustRegion(net)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(closure()).backward()
    with pytest.raises(ClosureError, match=r"TrustRegion scales its loss itself .*opt\.step\(closure\) without"):
        scaler.step(opt)


def test_a_parameter_that_is_new_or_frozen() -> None:
    first, second = nn.Linear(4, 3).requires_grad_(False), nn.Linear(3, 1)
    net = precc.compile(nn.Sequential(first, second), backend="reference")
    x = torch.randn(5, 4)
    opt = TrustRegion(net, levels=FP32)
    opt.step(lambda: net(x).square().mean())
    first.weight.requires_grad_(True)
    with pytest.raises(ControllerError, match=r"'0\.weight' to train, and 0 more"):
        opt.step(lambda: net(x).square().mean())
    opt.add_param_group({"params": [first.weight]})
    before = first.weight.clone()
    opt.step(lambda: net(x).square().mean())
    assert not torch.equal(before, first.weight)
    second.weight.requires_grad_(False)
    before, frozen = first.weight.clone(), second.weight.clone()
    opt.step(lambda: net(x).square().mean())
    assert torch.equal(frozen, second.weight)
    assert not torch.equal(before, first.weight)


def test_a_loss_that_is_constant() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = TrustRegion(net)
    for _ in range(2):
        opt.step(lambda: closure() * 0.0 + 3.0)
    assert values(net) == [3.0, 4.0]
    assert opt.events["stationary"] == 2
    assert opt.radius == 0.1


def test_the_history_has_each_decision_and_its_numbers() -> None:
    net, closure = erroneous([3.0, 4.0], [1.0, 1.0], lambda _: 7.0)
    opt = TrustRegion(net, radius=0.5, levels=COARSE, evaluate_every=2)
    for _ in range(3):
        opt.step(closure)
    refine, accept, between, last = net.history
    assert (refine.step, refine.event, refine.level, refine.reason) == (0, "refine", 1, "epsilon 7 is not below 0.125")
    assert (accept.step, accept.event, accept.reason) == (0, "accept", "rho 0.95 is at least eta2 0.75")
    assert (accept.radius, accept.loss) == (1.0, 12.5)
    assert accept.predicted_reduction == pytest.approx(2.5)
    assert accept.actual_reduction == pytest.approx(2.375)
    assert (between.step, between.reason, between.epsilon) == (1, "not evaluated", None)
    assert last.step == 2
    assert net.history.plans[str(last.plan)] == net.plan


FAMILIES: dict[str, dict[str, Any]] = {
    "difference": {"gate": "difference"},
    "both": {"points": "both", "zeta": 0.2},
    "restore": {"on_reject": "restore", "evaluate_every": 3, "momentum": 0.5},
    "shrink": {"on_reject": "shrink", "evaluate_every": 2, "momentum": 0.5, "momentum_form": "gradient"},
    "not monotone": {"monotone": False, "coarsen_after": 2, "weight_decay": 1e-3},
    "tolerant": {"noise_tolerance": 9.0, "levels": ("e4m3",)},
    "predicted": {"epsilon": "predicted"},
    "budget": {"levels": "budget", "momentum": 0.5},
    "budget, not monotone": {"levels": "budget", "monotone": False, "coarsen_after": 1},
}

#: After how many steps, where not after 1 and 4: before the first all are alike, and an analysis in each step is slow.
RESUMED = {"both": (0, 1, 4), "predicted": (1,), "budget, not monotone": (4,)}


@pytest.mark.parametrize("family", few_always(FAMILIES, ["both", "shrink", "not monotone", "predicted", "budget"]))
def test_a_state_dict_goes_on_bit_for_bit(family: str) -> None:
    def start() -> tuple[precc.PrecisionModule, TrustRegion, Callable[[], Tensor]]:
        torch.manual_seed(0)
        net = precc.compile(Convolutional(), backend="reference")
        x, y = torch.randn(8, 3, 12, 12), torch.arange(8) % 10
        options = {"radius": 0.5, **FAMILIES[family]}
        opt = TrustRegion(net, loss=F.cross_entropy, analysis=precc.AnalysisOptions(samples=256, probes=1), **options)
        return net, opt, lambda: opt.loss(net(x), y)

    net, opt, closure = start()
    saved: list[Any] = []
    for _ in range(6):
        saved.append(copy.deepcopy([net.state_dict(), opt.state_dict(), net.precision_state(), torch.get_rng_state()]))
        opt.step(closure)
    for steps in RESUMED.get(family, (1, 4)):
        other, resumed, other_closure = start()
        weights, own, precision, generator = saved[steps]
        other.load_state_dict(weights)
        other.load_precision_state(precision)
        resumed.load_state_dict(own)
        torch.set_rng_state(generator)
        for _ in range(6 - steps):
            resumed.step(other_closure)
        assert values(other) == values(net)
        assert list(other.history) == list(net.history)
        assert all(torch.equal(a, b) for a, b in zip(other.buffers(), net.buffers(), strict=True))
        assert resumed.radius == opt.radius


def test_the_momentum_of_a_float16_net_is_loaded_as_it_was() -> None:
    net = precc.compile(nn.Linear(4, 1, bias=False).half(), backend="reference")
    opt = TrustRegion(net, levels=FP32, momentum=0.5)
    opt.step(lambda: net(torch.ones(1, 4).half()).float().sum() / 3)
    state = copy.deepcopy(opt.state_dict())
    opt.load_state_dict(state)
    (own,) = opt.state.values()
    assert own["momentum_buffer"].dtype == torch.float32
    assert torch.equal(own["momentum_buffer"], state["state"][0]["momentum_buffer"])


def test_budgets_that_cannot_be_are_not_loaded() -> None:
    net, _ = quadratic([1.0], [1.0])
    opt = TrustRegion(net, levels="budget")
    good = opt.state_dict()
    for change in ({"budget": 0.0}, {"budget": math.inf}, {"budget": "x"}, {"successes": -1}):
        with pytest.raises(PlanError, match="that cannot be"):
            opt.load_state_dict({**good, "trust_region": {**good["trust_region"], **change}})
    assert opt.budget is None


def test_a_copy_watches_its_own_net() -> None:
    net, opt, closure = lenet(levels="budget")
    opt.step(closure)
    twin_net, twin = copy.deepcopy((net, opt))
    x, y = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    twin.step(lambda: twin.loss(twin_net(x), y))
    assert twin.errors.watch is not opt.errors.watch
    assert twin.errors.watch is not None
    assert twin.errors.watch.net is twin_net
