"""The rule by hand-computed cases, and the guarantee that it exists for."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precc.control.trust_region_rule import Decision, Observation, TrustRegionRule, TrustRegionState
from precc.errors import ControllerError

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
    found, after = RULE.step(observed, state)
    assert (found, after.radius, after.level) == (decision, radius, new_level)


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
    ("budget", "observed", "decision", "new_budget"),
    [
        # the bound is 0.1 * 2 / 2 = 0.1: the first budget is 0.09, then the smaller of half and 0.09
        (None, Observation(2.0, 0.0), Decision.BUDGET, 0.09),
        (0.5, Observation(2.0, 0.1), Decision.REFINE, 0.09),
        (0.1, Observation(2.0, 0.1), Decision.REFINE, 0.05),
        (0.1, Observation(2.0, 0.0999), Decision.EVALUATE, 0.1),
        (0.1, Observation(2.0, 0.0999, 1.5), Decision.ACCEPT, 0.1),
    ],
)
def test_budgets(budget: float | None, observed: Observation, decision: Decision, new_budget: float) -> None:
    rule = replace(RULE, levels=None)
    found, state = rule.step(observed, TrustRegionState(0.5, budget=budget))
    assert found is decision
    assert state.budget == pytest.approx(new_budget, rel=1e-15)
    assert replace(rule, budget=0.3).init().budget == 0.3


def test_a_budget_is_halved_where_a_plan_within_it_has_no_finite_loss() -> None:
    rule = replace(RULE, levels=None)
    found, state = rule.step_without_loss(TrustRegionState(0.5, budget=0.1), level_at_fault=True)
    assert (found, state.budget) == (Decision.REFINE, 0.05)
    first = TrustRegionState(0.5)  # in full precision
    assert rule.step_without_loss(first, level_at_fault=True) == (Decision.REJECT, TrustRegionState(0.25))


def test_under_the_finest_plan_a_step_is_judged() -> None:
    rule, state = replace(RULE, levels=None, zeta=0.2), TrustRegionState(0.5, budget=0.1)
    for error, turned in ((0.1, 0.0), (0.0, 0.3)):
        seen = Observation(2.0, error, gradient_error=turned)
        assert rule.step(seen, state)[0] is Decision.REFINE
        assert rule.step(replace(seen, finest=True), state) == (Decision.EVALUATE, state)


def test_the_error_of_the_difference_enters_once() -> None:
    rule = replace(RULE, entries=1)  # the bound is 0.1 * 2 = 0.2
    assert rule.bound(2.0) == 0.2
    assert rule.step(Observation(2.0, 0.1999, 0.5), START)[0] is Decision.ACCEPT
    assert rule.step(Observation(2.0, 0.2, 0.5), START)[0] is Decision.REFINE


@pytest.mark.parametrize(
    ("gradient_error", "decision"),
    [(0.2, Decision.EVALUATE), (0.2001, Decision.REFINE), (math.nan, Decision.REFINE), (None, Decision.EVALUATE)],
)
def test_the_gate_of_the_gradient(gradient_error: float | None, decision: Decision) -> None:
    rule = replace(RULE, zeta=0.2)
    assert rule.step(Observation(2.0, 0.0, gradient_error=gradient_error), START)[0] is decision
    assert RULE.step(Observation(2.0, 0.0, gradient_error=gradient_error), START)[0] is Decision.EVALUATE


@pytest.mark.parametrize(
    ("actual", "decision", "radius"),
    [
        # pred 1, epsilon 0.04, r 10: rho = (actual + 0.4) / 1.4, so 0.65 doubles and -0.26 is the least accepted
        (0.6500001, Decision.ACCEPT, 1.0),
        (0.6499999, Decision.ACCEPT, 0.5),
        (-0.2599999, Decision.ACCEPT, 0.5),
        (-0.2600001, Decision.REJECT, 0.25),
        (-math.inf, Decision.REJECT, 0.25),
    ],
)
def test_the_tolerant_ratio(actual: float, decision: Decision, radius: float) -> None:
    rule = replace(RULE, noise_tolerance=10.0)
    found, state = rule.step(Observation(1.0, 0.04, actual), START)
    assert (found, state.radius) == (decision, radius)


@given(st.floats(1e-9, 1e3), st.floats(1e-9, 1e3), st.sampled_from([1, 2]))
def test_noise_never_shrinks_the_radius_of_a_step_on_which_the_model_is_right(
    predicted: float, epsilon: float, entries: int
) -> None:
    rule = TrustRegionRule(radius=0.5, entries=entries, noise_tolerance=1.001 * entries / 0.25)
    _, state = rule.step(Observation(predicted, epsilon, predicted - entries * epsilon), rule.init())
    assert state.radius == 1.0


def test_coarser_levels_are_looked_at_after_gates_in_a_row() -> None:
    rule = replace(RULE, coarsen_after=2)
    state = TrustRegionState(0.5, 1)
    _, state = rule.step(Observation(2.0, 0.0, 1.0), state)
    assert (state.successes, rule.coarser(state)) == (1, None)
    assert rule.step(Observation(2.0, 0.1), state)[1].successes == 0, "a gate that fails ends the row"
    _, state = rule.step(Observation(2.0, 0.0, -1.0), state)  # rejected, but its gate passed
    assert state.successes == 2
    assert rule.coarser(state) == TrustRegionState(0.25, 0)
    assert rule.coarser(replace(state, level=0)) is None
    assert rule.coarser(replace(state, budget=0.1, level=0)) == TrustRegionState(0.25, budget=0.2)
    assert RULE.coarser(replace(state, successes=99)) is None, "levels are refined only"
    assert rule.coarsens(2.0, 0.0249)  # a quarter of 0.1
    assert not rule.coarsens(2.0, 0.025)
    strict = replace(rule, zeta=0.2)
    assert strict.coarsens(2.0, 0.0, 0.2)
    assert not strict.coarsens(2.0, 0.0, 0.21)
    assert not strict.coarsens(2.0, 0.0, math.nan)


@pytest.mark.parametrize(
    "options",
    [
        {"levels": None, "budget": 0.0},
        {"levels": None, "budget": math.inf},
        {"levels": None, "budget": math.nan},
        {"levels": 1, "budget": 0.1},
        {"zeta": 0.25},
        {"zeta": 0.0},
        {"noise_tolerance": 8.0},
        {"noise_tolerance": 4.0, "entries": 1},
        {"noise_tolerance": math.nan},
        {"noise_tolerance": -1.0},
        {"coarsen_after": 0},
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
def test_constants_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ControllerError, match="eta|radius|level|budget|noise|coarsen"):
        TrustRegionRule(**options)
