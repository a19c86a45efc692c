"""Mixed-precision SGD, secants and errors of levels by hand-computed cases."""

import math
from typing import Any

import pytest

from precc.control.level_errors import LevelErrors
from precc.control.mpsgd_rule import MPSGDObservation, MPSGDRule, MPSGDState
from precc.control.secant import SecantRule, Secants
from precc.errors import ControllerError

RULE = MPSGDRule(eta=0.5, levels=3)
EPSILONS = (1.0, 0.1, 0.0)


@pytest.mark.parametrize(
    ("square", "level", "passed", "new_level"),
    [
        # the bound is 0.1 * 0.5 / 2 = 0.025 times the square
        (40.0, 0, True, 0),
        (39.9, 0, False, 1),
        (4.0, 1, True, 1),
        (3.9, 1, False, 2),
        (0.0, 2, True, 2),
        (40.0, 2, True, 0),
        (math.nan, 0, False, 2),
        (math.inf, 0, False, 2),
    ],
)
def test_the_coarsest_level_within_the_bound(square: float, level: int, passed: bool, new_level: int) -> None:
    decision, state = RULE.step(MPSGDObservation(0.1, square, EPSILONS), MPSGDState(level))
    assert (decision.passed, decision.level, state.level) == (passed, new_level, new_level)
    assert decision.epsilon == EPSILONS[level]


def test_without_a_level_within_the_bound_the_finest_is_taken() -> None:
    decision, _ = RULE.step(MPSGDObservation(0.1, 1.0, (3.0, 2.0, 1.0)), MPSGDState(2))
    assert (decision.level, decision.passed) == (2, False)


def test_eta_in_proportion_to_the_rate() -> None:
    rule = MPSGDRule(eta=0.5, levels=3, scale_eta=True)
    decision, state = rule.step(MPSGDObservation(0.1, 4.0, EPSILONS), rule.init())
    assert (decision.bound, state.first_rate) == (0.1, 0.1)
    decision, state = rule.step(MPSGDObservation(0.05, 4.0, EPSILONS), state)
    assert decision.bound == 0.025  # half the rate, half of eta
    assert RULE.step(MPSGDObservation(0.05, 4.0, EPSILONS), MPSGDState(first_rate=0.1))[0].bound == 0.05
    assert rule.eta_of(0.4, state) < 1


@pytest.mark.parametrize(
    ("rate", "lipschitz", "rate_bound", "too_long"),
    [(0.1, 10.0, 0.1, False), (0.1001, 10.0, 0.1, True), (5.0, None, None, False), (5.0, 0.0, None, False)],
)
def test_how_long_a_step_may_be(rate: float, lipschitz: float | None, rate_bound: float | None, too_long: bool) -> None:
    decision, _ = RULE.step(MPSGDObservation(rate, 4.0, EPSILONS, lipschitz), RULE.init())
    assert (decision.rate_bound, decision.too_long) == (rate_bound, too_long)


def test_the_weights_of_the_iterate() -> None:
    # 2 * 0.5 * gamma - L * gamma**2: 0.5 - 0.25 = 0.25; 1 - 1 = 0; 0.25 - 0.0625 = 0.1875; 2 - 4 < 0
    state, found = RULE.init(), []
    for rate in (0.5, 1.0, 0.25, 2.0):
        decision, state = RULE.step(MPSGDObservation(rate, 4.0, EPSILONS, 1.0), state)
        found.append(decision.replaces)
    assert found == [1.0, 0.0, 0.1875 / 0.4375, 0.0]
    assert state.total_weight == 0.4375


@pytest.mark.parametrize("options", [{"eta": 0.0}, {"eta": 1.0}, {"levels": 0}, {"scale_eta": 1}])
def test_constants_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ControllerError, match="eta|level"):
        MPSGDRule(**options)


def test_secants() -> None:
    rule = SecantRule(window=4, quantile=0.5)
    state = rule.init()
    assert rule.estimate(state) is None
    for turned, moved in ((9.0, 1.0), (1.0, 1.0), (4.0, 2.0), (3.0, 1.0), (8.0, 2.0), (1.0, 0.0), (math.nan, 1.0)):
        state = rule.step(turned, moved, state)
    assert state == Secants((1.0, 2.0, 3.0, 4.0))
    assert rule.estimate(state) == 2.0
    assert SecantRule().estimate(state) == 4.0
    with pytest.raises(ControllerError, match="window"):
        SecantRule(window=0)
    with pytest.raises(ControllerError, match="quantile"):
        SecantRule(quantile=1.5)


def test_errors_of_levels() -> None:
    errors = LevelErrors.of(levels=2, window=2)
    assert errors.largest == (math.inf, math.inf)
    errors = errors.noted([5.0, 0.1]).noted([1.0, 0.2])
    assert errors.largest == (5.0, 0.2)
    assert errors.noted([math.nan, 0.0]).largest == (math.inf, 0.2)
    assert errors.noted([0.5, 0.0]).noted([0.5, 0.0]).largest == (0.5, 0.0)
    with pytest.raises(ControllerError, match="window"):
        LevelErrors.of(levels=2, window=0)
