"""Plans that hide in the noise of the gradient: the rules, and what is measured under the plans."""

import math

import pytest
import torch
from torch import nn

import precc
from precc import Analysis, AnalysisOptions, NoiseBudget
from precc.errors import InfeasibleError, PlanError
from precc.models.lenet5 import LeNet5
from precc.policies.noise_budget import Charges
from precc.slots import Slot

ROWS = 32


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    torch.manual_seed(0)
    net = precc.compile(LeNet5(), backend="reference")
    x, y = torch.randn(ROWS, 1, 28, 28), torch.randint(10, (ROWS,))
    return net.analyze(x, loss=lambda output: nn.functional.cross_entropy(output, y), options=AnalysisOptions(probes=8))


def forward_weights(plan: precc.PrecisionPlan, *, alone: bool) -> precc.PrecisionPlan:
    """The plan with nothing rounded but the forward weights, or with all but these."""
    own = {}
    for name, precision in plan.slots.items():
        slot = Slot.parse(name)
        if ((slot.role.value, slot.operand) == ("fprop", "weight")) is alone:
            own[name] = precision
    return precc.PrecisionPlan("float64", own)


@pytest.mark.parametrize("noise", [1e-4, 1e-2, 1.0])
def test_what_is_measured_is_within_theta_of_the_noise(analysis: Analysis, noise: float) -> None:
    """A chance error is as predicted within 1.5; what persists was charged (1 + horizon) times."""
    square = analysis.gradient_norm**2
    plan = NoiseBudget(noise=noise * square, theta=0.5).assign(analysis)
    measured = analysis.measure(forward_weights(plan, alone=False), repetitions=20)
    assert measured.gradient <= 1.5 * 0.5 * math.sqrt(noise)
    assert measured.gradient >= 0.2 * 0.5 * math.sqrt(noise), "the budget is used"


def test_more_noise_or_theta_costs_fewer_bits(analysis: Analysis) -> None:
    square = analysis.gradient_norm**2
    bits = [NoiseBudget(noise=own * square, theta=0.5).assign(analysis).average_bits for own in (1e-4, 1e-2, 1.0)]
    assert bits[0] > bits[1] > bits[2]
    assert NoiseBudget(noise=1e-2 * square, theta=0.1).assign(analysis).average_bits > bits[1]


def test_forward_weights_are_charged_as_a_gap_of_the_loss_alone(analysis: Analysis) -> None:
    square, bits = analysis.gradient_norm**2, []
    for gap in (1e-7, 1e-5, math.inf):
        plan = NoiseBudget(noise=square, loss_gap=gap).assign(analysis)
        own = forward_weights(plan, alone=True)
        charged = sum(abs(analysis.alone(name, precision).loss_mean) for name, precision in own.slots.items())
        assert charged <= gap * (1 + 1e-9)
        bits.append(sum(precision.bits for precision in own.slots.values()) / len(own.slots))
    assert bits[0] > bits[1] >= bits[2]


def test_a_persisting_error_is_charged_over_the_horizon(analysis: Analysis) -> None:
    """Rounded to nearest, the weights of dgrad err alike in each batch; stochastic rounding does not."""
    square = analysis.gradient_norm**2
    near, random = (precc.scaled(own) for own in ("e2m3", "e2m3"))
    random = precc.Precision(random.format, precc.Rounding("stochastic"), random.scaling)
    name = "fc1/product/dgrad.weight"
    found = analysis.alone(name, near)
    assert found.coherent < 0.5 * found.gradient
    tight = NoiseBudget(noise=square * 0.01, horizon=1000.0, candidates=[near, random, "float32"]).assign(analysis)
    assert tight.slots[name] != near
    loose = NoiseBudget(noise=square * 0.01, horizon=0.0, candidates=[near, "float32"]).assign(analysis)
    assert loose.average_bits < tight.average_bits


def test_what_is_lost_is_limited(analysis: Analysis) -> None:
    plan = NoiseBudget(noise=100 * analysis.gradient_norm**2, theta=1.0).assign(analysis)
    for name, own in plan.slots.items():
        assert analysis.alone(name, own).lost <= 1e-3, name


def test_a_larger_batch_has_less_noise_and_smaller_errors(analysis: Analysis) -> None:
    """Of chance errors, the plan of a batch four times as large, with a quarter of the noise, is the same."""
    square = analysis.gradient_norm**2
    options = {"horizon": 0.0, "candidates": ["e4m3", "e2m3", "bf16"]}
    one = NoiseBudget(noise=0.1 * square, **options).assign(analysis)  # type: ignore[arg-type]
    four = NoiseBudget(noise=0.1 * square / 4, batch=4 * ROWS, **options).assign(analysis)  # type: ignore[arg-type]
    assert four.average_bits == pytest.approx(one.average_bits, abs=1.0)


def test_no_noise_is_infeasible_unless_a_candidate_is_exact(analysis: Analysis) -> None:
    with pytest.raises(InfeasibleError):
        NoiseBudget(noise=0.0, candidates=["bf16", "e4m3"]).assign(analysis)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": -1.0}, "noise"),
        ({"noise": math.inf}, "noise"),
        ({"noise": math.nan}, "noise"),
        ({"noise": 1.0, "theta": 0.0}, "theta"),
        ({"noise": 1.0, "horizon": -1.0}, "horizon"),
        ({"noise": 1.0, "loss_gap": 0.0}, "loss_gap"),
        ({"noise": 1.0, "batch": 0}, "batch"),
        ({"noise": 1.0, "inference": True}, "no inference"),
        ({"noise": 1.0, "results": True}, "no results"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        NoiseBudget(**options)  # type: ignore[arg-type]


def test_charges_by_hand(analysis: Analysis) -> None:
    """Of one slot that persists and one that passes: (1 + horizon) * shrunk times the one, and the other once."""
    square = analysis.gradient_norm**2
    policy = NoiseBudget(noise=square, batch=4 * ROWS, horizon=7.0, candidates=["e2m3", "float32"])
    choices = policy.assigner(analysis).choices
    charges = Charges.of(choices, 7.0, 4.0)
    names, palette = choices.errors.names, [own.format.name for own in choices.palette.precisions]
    coarse = palette.index("float6_e2m3fn")
    about = charges.choices.uniform
    table = charges.gradients(about)
    for name in ("fc1/product/dgrad.weight", "fc1/product/wgrad.input"):
        alone = analysis.alone(name, choices.palette.precisions[coarse])
        flips = choices.errors.squares[names.index(name), coarse] * about.slopes[names.index(name), coarse]
        persisting = alone.gradient if name.endswith("weight") else alone.coherent
        expected = (alone.gradient - persisting) + 8 * 4 * persisting + flips
        assert table[names.index(name), coarse] == pytest.approx(expected)
    forward = names.index("fc1/product/fprop.weight")
    assert table[forward, coarse] == 0
    gap = abs(analysis.alone(names[forward], choices.palette.precisions[coarse]).loss_mean)
    assert charges.gaps[forward, coarse] == pytest.approx(gap)
