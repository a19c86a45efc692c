"""The rule of STORM by hand-computed cases."""

import math
from dataclasses import replace
from typing import Any

import pytest

from precc.control.storm_rule import STORMRule
from precc.control.trust_region_rule import Decision, Observation, TrustRegionState
from precc.errors import ControllerError

RULE = STORMRule(radius=0.5, eta1=0.1, eta2=2.0, gamma=4.0, radius_max=1.5, eta_precision=0.04, levels=3)


@pytest.mark.parametrize(
    ("observed", "norm", "level", "decision", "radius", "new_level"),
    [
        # pred = 2: the error may be 0.08
        (Observation(2.0, 0.0801), 4.0, 0, Decision.REFINE, 0.5, 1),
        (Observation(2.0, 0.08), 4.0, 0, Decision.EVALUATE, 0.5, 0),
        (Observation(2.0, math.inf), 4.0, 1, Decision.REFINE, 0.5, 2),
        (Observation(2.0, math.nan), 4.0, 1, Decision.REFINE, 0.5, 2),
        (Observation(2.0, 1.0), 4.0, 2, Decision.EVALUATE, 0.5, 2),
        # rho = 0.1, and ||g|| against 2 * 0.5; 4 * 0.5 is cut to 1.5
        (Observation(2.0, 0.0, 0.2), 1.0, 1, Decision.ACCEPT, 1.5, 1),
        (Observation(2.0, 0.0, 0.1999), 1.0, 1, Decision.REJECT, 0.125, 1),
        (Observation(2.0, 0.0, 1.9), 0.9999, 1, Decision.REJECT, 0.125, 1),
        (Observation(2.0, 0.0, math.nan), 4.0, 0, Decision.REJECT, 0.125, 0),
        (Observation(0.0, 0.0), 4.0, 0, Decision.REJECT, 0.125, 0),
        (Observation(math.nan, 0.0), 4.0, 0, Decision.REJECT, 0.125, 0),
    ],
)
def test_decisions(
    observed: Observation, norm: float, level: int, decision: Decision, radius: float, new_level: int
) -> None:
    assert RULE.step(replace(observed, gradient_norm=norm), TrustRegionState(0.5, level)) == (
        decision,
        TrustRegionState(radius, new_level),
    )


def test_a_radius_below_the_largest_is_multiplied() -> None:
    _, state = RULE.step(Observation(2.0, 0.0, 1.0, gradient_norm=4.0), TrustRegionState(0.25))
    assert state.radius == 1.0


def test_a_gradient_that_is_not_known_is_no_success() -> None:
    assert RULE.step(Observation(2.0, 0.0, 1.0), RULE.init())[0] is Decision.REJECT


def test_without_a_loss_the_level_is_refined_if_it_is_at_fault() -> None:
    start = RULE.init()
    assert RULE.step_without_loss(start, level_at_fault=True) == (Decision.REFINE, TrustRegionState(0.5, 1))
    assert RULE.step_without_loss(start, level_at_fault=False) == (Decision.REJECT, TrustRegionState(0.125))


@pytest.mark.parametrize(
    "options",
    [
        {"radius": 0.0},
        {"radius": 11.0},
        {"radius": math.nan},
        {"radius_max": math.inf},
        {"eta1": 0.0},
        {"eta1": 1.0},
        {"eta2": 0.0},
        {"gamma": 1.0},
        {"gamma": math.inf},
        {"eta_precision": 0.0},
        {"eta_precision": math.nan},
        {"levels": 0},
    ],
)
def test_constants_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ControllerError, match=next(iter(options))[:5]):
        STORMRule(**options)
