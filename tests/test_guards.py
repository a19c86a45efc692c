"""Guards by hand-computed readings, on trainings that go on and on those that do not."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precc.control.guards import Alarm, GuardEvent, GuardReading, Guards, GuardState
from precc.control.running_band import RunningBand
from precc.errors import ControllerError

SMALL = Guards(band=2.0, patience=2, spike=5.0, window=4, warmup=2)


def events_of(guards: Guards, losses: list[float], state: GuardState | None = None) -> list[GuardEvent | None]:
    """What each loss gives."""
    state, found = state or guards.init(), []
    for loss in losses:
        alarm, state = guards.step(GuardReading(loss), state)
        found.append(alarm.event if alarm else None)
    return found


def test_the_band_by_hand() -> None:
    """1 and 3: mean 2, deviation 1. 4.5 is 2.5 above, enters as 4: mean 8/3, deviation sqrt(14/9)."""
    alarm, state = SMALL.step(GuardReading(4.5), GuardState((1.0, 3.0)))
    assert alarm is None
    assert state == GuardState((1.0, 3.0, 4.0), above=1)
    upper = 8 / 3 + 2 * math.sqrt(14 / 9)
    assert SMALL.step(GuardReading(upper - 1e-9), state)[0] is None
    alarm, after = SMALL.step(GuardReading(upper + 1e-9), state)
    assert alarm is not None
    assert alarm.event is GuardEvent.DIVERGENCE
    assert after.above == 0
    assert after.losses == pytest.approx((1.0, 3.0, 4.0, upper))


def test_one_spike() -> None:
    state = GuardState((1.0, 3.0))
    assert SMALL.step(GuardReading(7.0), state)[0] is None  # 5 deviations are not more than 5
    alarm, after = SMALL.step(GuardReading(7.1), state)
    assert alarm == Alarm(GuardEvent.SPIKE, "the loss 7.1 is 5.1 deviations above those before, more than 5")
    assert after == GuardState((1.0, 3.0, 4.0))


def test_the_count_is_of_consecutive_losses() -> None:
    state = GuardState((1.0, 3.0))
    assert SMALL.step(GuardReading(2.0), SMALL.step(GuardReading(4.5), state)[1])[1].above == 0


def test_the_window_forgets() -> None:
    state = GuardState((9.0, 1.0, 1.0, 1.0))
    assert SMALL.step(GuardReading(2.0), state)[1].losses == (1.0, 1.0, 1.0, 2.0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_an_event_at_once(wrong: float) -> None:
    state = GuardState((1.0,), above=1)
    alarm, after = SMALL.step(GuardReading(wrong, wrong), state)
    assert alarm is not None
    assert (alarm.event, after) == (GuardEvent.NONFINITE_LOSS, state)
    alarm, after = SMALL.step(GuardReading(1.0, wrong), state)
    assert alarm is not None
    assert (alarm.event, after) == (GuardEvent.NONFINITE_GRADIENT, state)


def test_log_units_see_factors() -> None:
    """Losses e**-1 and e: mean 0, deviation 1 in logarithms; e**2.5 is 2.5 above, and in linear units 9.1."""
    losses = [math.exp(-1), math.e, math.exp(2.5)]
    guards = Guards(band=2.0, patience=1, spike=3.0, window=4, warmup=2, log=True)
    assert events_of(guards, losses) == [None, None, GuardEvent.DIVERGENCE]
    linear = Guards(band=2.0, patience=1, spike=3.0, window=4, warmup=2)
    assert events_of(linear, losses) == [None, None, GuardEvent.SPIKE]


def test_log_units_take_no_negative_loss_and_pass_over_zero() -> None:
    guards = Guards(log=True)
    assert guards.step(GuardReading(0.0), GuardState((1.0,), above=2)) == (None, GuardState((1.0,), above=0))
    with pytest.raises(ControllerError, match="no logarithm"):
        guards.step(GuardReading(-1.0), guards.init())


def test_a_noisy_training_is_left_alone() -> None:
    rng = random.Random(0)
    losses = [3.0 * math.exp(-step / 500) + 0.5 + 0.1 * rng.gauss(0, 1) for step in range(5000)]
    assert set(events_of(Guards(), losses)) == {None}


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_a_diverging_one_is_found_before_its_loss_has_doubled_twice(rate: float) -> None:
    """A planted defect: after 200 steps the loss grows by a factor of ``exp(rate)`` a step."""
    rng = random.Random(1)
    losses = [(1 + 0.05 * rng.gauss(0, 1)) * math.exp(rate * max(0, step - 200)) for step in range(400)]
    found = events_of(Guards(), losses)
    first = next(step for step, event in enumerate(found) if event is not None)
    assert first > 200
    assert math.exp(rate * (first - 200)) < 4


def test_a_slow_rise_is_followed() -> None:
    """The limit of a band that the module states."""
    assert set(events_of(Guards(), [1.0 + 0.001 * step for step in range(1000)])) == {None}


def test_a_lasting_rise_is_learnt() -> None:
    rng = random.Random(2)
    losses = [(1.0 if step < 100 else 2.0) + 0.05 * rng.gauss(0, 1) for step in range(600)]
    found = events_of(Guards(), losses)
    assert any(found[100:110])
    assert set(found[300:]) == {None}


def test_a_constant_loss_has_a_band() -> None:
    assert set(events_of(Guards(), [1.0] * 100 + [1.002] * 10)) == {None}
    assert GuardEvent.DIVERGENCE in events_of(Guards(), [1.0] * 100 + [1.005] * 5)
    assert GuardEvent.SPIKE in events_of(Guards(), [0.0] * 100 + [1e-9])


@given(st.lists(st.floats(-1e300, 1e300), max_size=60), st.integers(0, 59))
def test_it_goes_on_from_a_checkpoint(losses: list[float], cut: int) -> None:
    guards = Guards(window=10, warmup=2, patience=2)
    state = guards.init()
    for loss in losses[:cut]:
        _, state = guards.step(GuardReading(loss), state)
    again = GuardState.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state
    assert events_of(guards, losses[cut:], again) == events_of(guards, losses)[cut:]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {},
        {"losses": 1, "above": 0},
        {"losses": [math.nan], "above": 0},
        {"losses": ["1"], "above": 0},
        {"losses": [], "above": -1},
        {"losses": [], "above": True},
    ],
)
def test_states_that_are_none(wrong: object) -> None:
    with pytest.raises(ControllerError, match="losses|above"):
        GuardState.from_json(wrong)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"band": 0.0}, "band"),
        ({"band": math.inf}, "band"),
        ({"band": "3"}, "band"),
        ({"spike": 3.0}, "spike is more than the band"),
        ({"patience": 0}, "patience"),
        ({"patience": 2.0}, "patience"),
        ({"warmup": 1}, "warmup"),
        ({"window": 10, "warmup": 11}, "window of 10"),
        ({"floor": -1.0}, "floor"),
        ({"floor": math.nan}, "floor"),
        ({"log": 1}, "log"),
    ],
)
def test_constants_out_of_range(options: dict[str, object], what: str) -> None:
    with pytest.raises(ControllerError, match=what):
        Guards(**options)  # type: ignore[arg-type]


def test_a_band_without_spread() -> None:
    band = RunningBand(width=3.0, window=4, warmup=2)
    readings = (1.0, 1.0)
    assert [band.deviations(value, readings) for value in (0.0, 1.0, 2.0)] == [-math.inf, 0.0, math.inf]
