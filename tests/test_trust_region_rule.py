"""The rule by hand-computed cases, and the guarantee that it exists for."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precc.control.trust_region_rule import Decision, Observation, TrustRegionRule, TrustRegionState

RULE = TrustRegionRule(radius=0.5, eta1=0.1, eta2=0.75, levels=3)
START = RULE.init()


@pytest.mark.parametrize(
    ("observed", "level", "decision", "radius", "new_level"),
    [
        # pred = 2: the gate is eps < 0.1
        (Observation(2.0, 0.1), 0, Decision.REFINE, 0.5, 1),
        (Observation(2.0, 0.0999), 0, Decision.EVALUATE, 0.5, 0),
        (Observation(2.0, math.inf), 1, Decision.REFINE, 0.5, 2),
        (Observation(2.0, math.nan), 1, Decision.REFINE, 0.5, 2),
        # on the finest level there is nothing to refine
        (Observation(2.0, 0.2), 2, Decision.EVALUATE, 0.5, 2),
        # rho = 0.75, 0.7499, 0.1, 0.0999
        (Observation(2.0, 0.0, 1.5), 0, Decision.ACCEPT, 1.0, 0),
        (Observation(2.0, 0.0, 1.4998), 0, Decision.ACCEPT, 0.5, 0),
        (Observation(2.0, 0.0, 0.2), 1, Decision.ACCEPT, 0.5, 1),
        (Observation(2.0, 0.0, 0.1998), 1, Decision.REJECT, 0.25, 1),
        (Observation(2.0, 0.0, -1.0), 0, Decision.REJECT, 0.25, 0),
        (Observation(2.0, 0.0, -math.inf), 0, Decision.REJECT, 0.25, 0),
        (Observation(2.0, 0.0, math.nan), 0, Decision.REJECT, 0.25, 0),
        # no decrease is promised: the radius is too large for the model
        (Observation(0.0, 0.0), 0, Decision.REJECT, 0.25, 0),
        (Observation(-1.0, 0.0), 0, Decision.REJECT, 0.25, 0),
        (Observation(math.nan, 0.0), 0, Decision.REJECT, 0.25, 0),
    ],
)
def test_decisions(observed: Observation, level: int, decision: Decision, radius: float, new_level: int) -> None:
    state = TrustRegionState(0.5, level)
    assert RULE.step(observed, state) == (decision, TrustRegionState(radius, new_level))


def test_without_a_loss_the_level_is_refined_if_it_is_at_fault() -> None:
    refined = TrustRegionState(0.5, 1)
    assert RULE.step_without_loss(START, level_at_fault=True) == (Decision.REFINE, refined)
    assert RULE.step_without_loss(START, level_at_fault=False) == (Decision.REJECT, TrustRegionState(0.25, 0))
    finest = TrustRegionState(0.5, 2)
    assert RULE.step_without_loss(finest, level_at_fault=True) == (Decision.REJECT, TrustRegionState(0.25, 2))


@given(
    st.floats(1e-6, 1e6),
    st.floats(0, 0.12),  # the gate is at 0.05
    st.floats(-0.3, 0.3),
    st.sampled_from([-1.0, 0.0, 1.0]),
    st.sampled_from([-1.0, 0.0, 1.0]),
)
@settings(max_examples=1000)
def test_an_accepted_step_is_a_true_decrease_while_the_gate_is_on(
    predicted: float, relative_epsilon: float, ratio: float, error_here: float, error_there: float
) -> None:
    """The computed losses are off by up to epsilon each, in either direction."""
    epsilon = relative_epsilon * predicted
    true_reduction = ratio * predicted
    computed = true_reduction + epsilon * (error_here - error_there)
    decision, _ = RULE.step(Observation(predicted, epsilon, computed), START)
    if decision is Decision.ACCEPT:
        assert true_reduction > 0


def test_without_the_gate_it_need_not_be() -> None:
    finest = TrustRegionState(0.5, 2)  # nothing to refine: the gate is off
    true_reduction, epsilon = -0.5, 0.6
    decision, _ = RULE.step(Observation(1.0, epsilon, true_reduction + 2 * epsilon), finest)
    assert decision is Decision.ACCEPT


def steps_on_the_coarse_level(epsilon: float) -> int:
    """Gradient descent on x**2 / 2 from 10, with f computed to epsilon on level 0 and exactly on level 1."""
    rule = TrustRegionRule(radius=0.1, levels=2)
    state, x, steps = rule.init(), 10.0, 0
    while True:
        predicted = state.radius * abs(x)
        step = -math.copysign(state.radius, x)
        decision, state = rule.step(Observation(predicted, epsilon), state)
        if decision is Decision.REFINE:
            return steps
        actual = 0.5 * (x**2 - (x + step) ** 2)
        decision, state = rule.step(Observation(predicted, epsilon, actual), state)
        x += step if decision is Decision.ACCEPT else 0.0
        steps += 1


def test_a_coarser_arithmetic_is_left_earlier() -> None:
    steps = [steps_on_the_coarse_level(epsilon) for epsilon in (1e-12, 1e-2, 10.0)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > steps[1] > steps[2] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"eta1": 0.0},
        {"eta1": 0.8},
        {"eta2": 1.0},
        {"radius": 0.0},
        {"radius": -1.0},
        {"radius": math.inf},
        {"radius": math.nan},
        {"levels": 0},
    ],
)
def test_constants_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="eta|radius|level"):
        TrustRegionRule(**options)  # type: ignore[arg-type]
