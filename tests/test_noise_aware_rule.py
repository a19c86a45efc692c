"""When to analyse and what to take: by hand."""

from dataclasses import replace

import pytest

import precc
from precc.control.noise_aware_rule import NoiseAwareRule, NoiseAwareState, NoiseDecision, Proposal
from precc.control.plan_change import agreement, changed_share, finer, towards
from precc.errors import ControllerError

WORK = {
    "a/product/fprop.input": 100,
    "a/product/fprop.weight": 100,
    "b/product/fprop.input": 300,
    "b/product/fprop.weight": 300,
}
NAMES = tuple(WORK)


def plan(a: str, b: str) -> precc.PrecisionPlan:
    """Formats of the two products."""
    own = dict.fromkeys(NAMES[:2], a) | dict.fromkeys(NAMES[2:], b)
    return precc.PrecisionPlan("float32", own, WORK)


def test_the_finer_of_two_plans_product_by_product() -> None:
    assert finer(plan("bf16", "e4m3"), plan("e4m3", "bf16")) == plan("bf16", "bf16")
    assert finer(plan("e4m3", "e4m3"), plan("bf16", "bf16")) == plan("bf16", "bf16")
    mixed = precc.PrecisionPlan("float32", {NAMES[0]: "bf16", NAMES[1]: "e2m1"}, WORK)  # 10 bits on average
    assert finer(mixed, plan("e4m3", "float32")).slots[NAMES[1]] == mixed.slots[NAMES[1]], "operands stay together"


def test_agreement_is_in_bits_of_an_operand_weighted_by_work() -> None:
    assert agreement(plan("e4m3", "e4m3"), plan("bf16", "e4m3")) == 8 * 100 / 400
    assert agreement(plan("e4m3", "bf16"), plan("e5m2", "bf16")) == 0


def test_no_more_than_a_share_becomes_coarser_and_all_becomes_finer() -> None:
    assert towards(plan("bf16", "bf16"), plan("e4m3", "e4m3"), 0.25) == plan("bf16", "e4m3"), "the first may be larger"
    assert towards(plan("bf16", "e4m3"), plan("e4m3", "e4m3"), 0.25) == plan("e4m3", "e4m3")
    assert towards(plan("e4m3", "e4m3"), plan("bf16", "bf16"), 0.25) == plan("bf16", "bf16")
    assert towards(plan("e4m3", "bf16"), plan("bf16", "e4m3"), 1.0) == plan("bf16", "e4m3")
    assert changed_share(plan("e4m3", "bf16"), plan("e5m2", "bf16")) == 0.25


def test_the_first_plan_is_taken_whole_when_two_agree() -> None:
    rule = NoiseAwareRule()
    (decision, wanted), state = rule.step(Proposal(10, plan("e4m3", "e4m3")), rule.init())
    assert (decision, wanted, state.due) == (NoiseDecision.WAIT, None, 20)
    (decision, wanted), state = rule.step(Proposal(20, plan("bf16", "bf16")), state)
    assert (decision, wanted, state.due) == (NoiseDecision.WAIT, None, 80), "8 bits apart"
    (decision, wanted), state = rule.step(Proposal(80, plan("e4m3", "bf16")), state)
    assert (decision, wanted) == (NoiseDecision.WAIT, None), "2 bits apart"
    (decision, wanted), state = rule.step(Proposal(320, plan("e4m3", "e4m3")), state)
    assert (decision, wanted) == (NoiseDecision.SWITCH, plan("e4m3", "bf16")), "the start-up ends"
    assert state.due == 1320
    assert state.plan is None, "until it is committed"
    agreeing = replace(rule.init(), previous=plan("e4m3", "e4m3"))
    assert rule.step(Proposal(20, plan("e4m3", "e5m2")), agreeing)[0] == (NoiseDecision.SWITCH, plan("e4m3", "e5m2"))


def test_refined_at_once_and_coarser_after_two() -> None:
    rule = NoiseAwareRule()
    state = NoiseAwareState(0, 1320, previous=plan("e4m3", "e4m3"), plan=plan("e4m3", "e4m3"), switched=320)
    (decision, wanted), state = rule.step(Proposal(1320, plan("bf16", "bf16")), state)
    assert (decision, wanted) == (NoiseDecision.SWITCH, plan("bf16", "bf16"))
    assert wanted is not None
    state = rule.commit(wanted, 1320, state)
    assert (state.fallback, state.switched) == (plan("e4m3", "e4m3"), 1320)
    (decision, wanted), state = rule.step(Proposal(2320, plan("e4m3", "e4m3")), state)
    assert decision is NoiseDecision.KEEP, "the analysis before wants it finer"
    (decision, wanted), state = rule.step(Proposal(3320, plan("e4m3", "e4m3")), state)
    assert (decision, wanted) == (NoiseDecision.SWITCH, plan("bf16", "e4m3"))


def test_a_roll_back_blames_a_recent_switch_and_begins_again() -> None:
    rule = NoiseAwareRule(suspect=100, hold=200)
    coarse, fine = plan("e4m3", "e4m3"), plan("bf16", "bf16")
    state = NoiseAwareState(0, 1320, previous=coarse, plan=coarse, fallback=fine, switched=320)
    assert rule.roll_back(420, state) == NoiseAwareState(620, 630, plan=fine)
    assert rule.roll_back(421, state) == NoiseAwareState(621, 631), "full precision"


@pytest.mark.parametrize(
    "options",
    [
        {"start": ()},
        {"start": (10, 10)},
        {"start": (0, 10)},
        {"start": (1.5,)},
        {"every": 0},
        {"change": 0.0},
        {"change": 1.5},
        {"agree": -1.0},
        {"agree": float("nan")},
        {"suspect": -1},
        {"hold": True},
    ],
)
def test_constants_outside_their_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ControllerError, match=next(iter(options))):
        NoiseAwareRule(**options)  # type: ignore[arg-type]
