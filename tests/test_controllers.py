"""What all controllers and all rules have in common, over the registries."""

import copy
import dataclasses
import inspect
import math
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import precc
from precc.control.adapt_rule import AdaPTReading, AdaPTRule, Strategy
from precc.control.controllers import CONTROLLERS, RULES
from precc.control.guards import GuardReading, Guards
from precc.control.late_switch_rule import LateSwitchReading, LateSwitchRule
from precc.control.mpsgd_rule import MPSGDObservation, MPSGDRule
from precc.control.noise_aware_rule import NoiseAwareRule, Proposal
from precc.control.sharpness_rule import SharpnessGuardRule
from precc.control.storm_rule import STORMRule
from precc.control.trust_region_rule import Observation, TrustRegionRule
from precc.protocols import ControlRule

GUIDE = Path(__file__).parents[1] / "docs" / "guide" / "controllers.md"


def loses(word: int, fraction: int, bins: int) -> float:
    return float(word < 6 or fraction < 3 or bins < 1)


WORK = {"a/product/fprop.input": 10}
_PROPOSED = ((10, "e4m3"), (20, "e4m3"), (80, "bf16"), (320, "bf16"))

#: A rule, and what it sees step by step: among it a decision of each kind.
EXAMPLES: dict[str, tuple[ControlRule[Any, Any, Any], list[Any]]] = {
    "AdaPTRule": (
        AdaPTRule(lookback=(1, 4), resolution=(20, 30)),
        [AdaPTReading(count, 1.0, Strategy.MIN, loses) for count in (1, 2, 3, 4)],
    ),
    "Guards": (
        Guards(window=4, warmup=2, patience=2),
        [GuardReading(own) for own in (1.0, 1.1, 1.5, 1.6, 9.0, math.nan)],
    ),
    "LateSwitchRule": (LateSwitchRule(at=0.5, total_steps=4), [LateSwitchReading(own, 0.1) for own in (1, 2, 3)]),
    "MPSGDRule": (MPSGDRule(levels=2), [MPSGDObservation(0.1, own, (0.02, 0.001), 1.0) for own in (1.0, 0.1, 1.0)]),
    "NoiseAwareRule": (
        NoiseAwareRule(),
        [Proposal(step, precc.PrecisionPlan("fp32", {"a/product/fprop.input": own}, WORK)) for step, own in _PROPOSED],
    ),
    "STORMRule": (
        STORMRule(levels=2),
        [
            Observation(1.0, 0.5, gradient_norm=9.0),
            Observation(1.0, 0.001, 0.9, gradient_norm=9.0),
            Observation(1.0, 0.001, -1.0, gradient_norm=9.0),
        ],
    ),
    "SharpnessGuardRule": (
        SharpnessGuardRule(levels=2, window=4, warmup=2, patience=1, cooldown=0, calm=1),
        [1.0, 1.1, 9.0, 1.0, math.nan, math.inf],
    ),
    "TrustRegionRule": (
        TrustRegionRule(levels=2),
        [Observation(1.0, 0.5), Observation(1.0, 0.01, 0.9), Observation(1.0, 0.01, -1.0), Observation(1.0, 0.01)],
    ),
}


def is_plain(value: Any) -> bool:
    """Whether nobody can change a value, or it is plain data."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, (*value, *value.values())))
    if dataclasses.is_dataclass(value) and not isinstance(value, precc.PrecisionPlan):
        return is_frozen(type(value)) and all(is_plain(getattr(value, own.name)) for own in dataclasses.fields(value))
    return value is None or isinstance(value, (bool, int, float, str, Enum, precc.PrecisionPlan))


def is_frozen(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) and bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_a_frozen_dataclass_of_constants(name: str) -> None:
    kind = RULES[name]
    assert is_frozen(kind)
    assert "Args:" in (kind.__doc__ or "")
    assert "Raises:" in (kind.__doc__ or "")
    assert len(inspect.signature(kind.step).parameters) == 3  # self, what it sees, state
    assert type(EXAMPLES[name][0]) is kind


@pytest.mark.parametrize("name", RULES)
def test_a_step_is_pure(name: str) -> None:
    rule, readings = EXAMPLES[name]
    constants, state, states = copy.deepcopy(rule), rule.init(), []
    for seen in readings:
        before = copy.deepcopy((seen, state))
        first, again = rule.step(seen, state), rule.step(*copy.deepcopy((seen, state)))
        assert repr(first) == repr(again)  # NaN is unlike itself
        assert repr(before) == repr((seen, state))
        assert type(first) is tuple
        state = first[1]
        states.append(state)
    assert rule == constants
    assert len(set(map(repr, states))) > 1


@pytest.mark.parametrize("name", RULES)
def test_a_state_is_plain(name: str) -> None:
    rule, readings = EXAMPLES[name]
    state = rule.init()
    assert is_plain(state)
    for seen in readings:
        _, state = rule.step(seen, state)
        assert is_plain(state)
    assert hash(state) == hash(copy.deepcopy(state))


def test_what_is_not_plain_is_found() -> None:
    @dataclasses.dataclass
    class Loose:
        count: int = 0

    assert not is_plain(Loose())
    assert not is_plain((1, Tensor()))
    assert is_plain(({"a": [1, None]}, 2.0))


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_controller_is_exported_and_described(name: str) -> None:
    kind = CONTROLLERS[name]
    assert getattr(precc, name) is kind
    assert name in precc.__all__
    for part in ("Args:", "Raises:"):
        assert part in (inspect.getdoc(kind) or "")
    table = GUIDE.read_text(encoding="utf-8").split("| controller | around |")[1].split("\n\n")[0]
    assert f"`{name}`" in table


def test_the_table_of_the_guide_has_no_others() -> None:
    table = GUIDE.read_text(encoding="utf-8").split("| controller | around |")[1].split("\n\n")[0]
    named = [own for row in table.splitlines()[2:] for own in row.split("|")[1].replace("`", "").split(",")]
    assert sorted(own.strip() for own in named) == sorted(CONTROLLERS)


@pytest.mark.parametrize(
    "name", ["AdaPTRule", "ControllerError", "ExtraError", "GuardReading", "GuardState", "Guards", "History"]
)
def test_what_users_pass_catch_and_read_is_exported(name: str) -> None:
    assert name in precc.__all__
    assert isinstance(getattr(precc, name), type)
