"""The table of what controllers decided."""

import pickle
import sys

import pytest
import torch

import precc
from precc.errors import ExtraError, PlanError
from precc.history import History, HistoryRow
from precc.models.lenet5 import LeNet5


def filled() -> History:
    history = History()
    coarse, fine = precc.PrecisionPlan("e4m3"), precc.PrecisionPlan("bf16")
    history.note(step=0, controller="TrustRegion", event="accept", plan=coarse, level=0, radius=0.5, epsilon=1e-3)
    history.note(step=1, controller="TrustRegion", event="refine", reason="0.2 of 0.1", plan=fine, level=1)
    history.note(step=1, controller="LateSwitch", event="switch", plan=fine)
    return history


def test_rows_and_columns() -> None:
    history = filled()
    assert [row.step for row in history] == [0, 1, 1]
    assert history[1] == HistoryRow(1, "TrustRegion", "refine", "0.2 of 0.1", history[2].plan, 16.0, 1)
    assert history.columns()["radius"] == [0.5, None, None]
    assert [row.event for row in history.of("LateSwitch")] == ["switch"]
    assert history.plans[history[0].plan] == precc.PrecisionPlan("e4m3")
    assert len(history.plans) == 2


def test_a_round_trip_through_plain_data() -> None:
    history = filled()
    again = History.from_json(history.to_json())
    assert list(again) == list(history)
    assert again.plans == history.plans


def test_pandas_and_arrow() -> None:
    history = filled()
    frame = history.to_pandas()
    assert frame["radius"].isna().tolist() == [False, True, True]
    assert frame[frame.event == "refine"].average_bits.item() == 16.0
    assert history.to_arrow().column("level").to_pylist() == [0, 1, None]
    assert len(History().to_pandas()) == len(History().to_arrow()) == 0


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ExtraError, match=r"pip install 'precc\[tables\]'"):
        filled().to_pandas()


def test_printed() -> None:
    text = str(filled())
    assert "0.2 of 0.1" in text
    assert "noise" not in text, "columns without a value are left out"
    long = History([HistoryRow(step, "A", "b") for step in range(50)])
    assert "the last 20 of 50 rows" in str(long)


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"rows": []},
        {"rows": [{"step": 1}], "plans": {}},
        {"rows": [{"step": 1.5, "controller": "a", "event": "b", "reason": ""}], "plans": {}},
        {"rows": [{"step": 1, "controller": "a", "event": "b", "reason": "", "plan": "gone"}], "plans": {}},
        {"rows": [{"step": 1, "controller": "a", "event": "b", "reason": "", "radius": "x"}], "plans": {}},
    ],
)
def test_what_is_no_history_is_refused(data: object) -> None:
    with pytest.raises(PlanError):
        History.from_json(data)


def test_it_goes_with_the_precision_state_as_do_average_bits() -> None:
    net = precc.compile(LeNet5(), policy="e4m3", backend="reference")
    net(torch.randn(2, 1, 28, 28)).sum().backward()
    net.history.note(step=0, controller="Mine", event="seen", plan=net.plan)
    state = net.precision_state()
    other = precc.compile(LeNet5(), backend="reference")
    other.load_precision_state(state)
    assert list(other.history) == list(net.history)
    assert other.precision_state()["bits"] == state["bits"]
    bits, weighed = state["bits"]
    assert bits / weighed == 8.0
    assert weighed == sum(state["multiply_adds"].values())


def test_bits_count_scales() -> None:
    net = precc.compile(LeNet5(), policy="nvfp4", backend="reference")
    net(torch.randn(2, 1, 28, 28)).sum().backward()
    bits, weighed = net.precision_state()["bits"]
    assert bits / weighed == pytest.approx(net.plan.average_bits)


class Watcher:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def see(self, row: HistoryRow) -> None:
        self.seen.append(row.step)


def test_rows_are_shown_to_those_who_watch_and_live() -> None:
    history, watcher, other = History(), Watcher(), Watcher()
    history.watch(watcher.see)
    history.watch(other.see)
    history.note(step=1, controller="me", event="step")
    history.unwatch(other.see)
    copied = pickle.loads(pickle.dumps(history))
    history.note(step=2, controller="me", event="step")
    copied.note(step=3, controller="me", event="step")
    assert (watcher.seen, other.seen, len(copied)) == ([1, 2], [1], 2)
    seen = watcher.seen
    del watcher
    history.note(step=4, controller="me", event="step")
    assert seen == [1, 2]
