"""A training shown to trackers and callbacks as it goes."""

import copy
import gc
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import precc
from precc.control.ranks import Ranks
from precc.history import HistoryRow
from precc.module import session_of
from precc.report.analysed_step import AnalysedStep
from precc.report.error_figures import ErrorFigures
from precc.report.film_strip import FilmStrip
from precc.tracking.guarded import Guarded
from precc.tracking.magnitudes import Magnitudes
from precc.tracking.net_formats import NetFormats
from precc.tracking.pictures import film_picture
from tests.recording_sink import RecordingSink

X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def net_of(policy: str | None = "e4m3") -> precc.PrecisionModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return precc.compile(model, policy=policy, backend="reference")


def loss_of(net: nn.Module) -> torch.Tensor:
    return F.cross_entropy(net(X), Y)


def trained(net: precc.PrecisionModule, log: precc.TrainingLog | None, steps: int) -> None:
    """By an optimizer of torch, without a controller."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(net)
        loss.backward()
        if log is not None:
            log.step(loss)
        optimizer.step()


class Rows(precc.Callback):
    def __init__(self) -> None:
        self.rows: list[HistoryRow] = []
        self.fails: BaseException | None = None

    def on_row(self, row: HistoryRow, plan: precc.PrecisionPlan | None) -> None:
        if self.fails is not None:
            raise self.fails
        self.rows.append(row)


@pytest.fixture(scope="module")
def seen() -> Iterator[tuple[precc.PrecisionModule, RecordingSink]]:
    """A trust region that refines, of 20 steps, with figures every 5."""
    net, sink = net_of(None), RecordingSink()
    opt = precc.TrustRegion(net)
    with precc.TrainingLog(net, sink, every=5) as log:
        for _ in range(20):
            log.step(opt.step(lambda: loss_of(net)))
        other = precc.PrecisionPlan("bf16", {"0/product/fprop.weight": "fp32"})
        net.history.note(step=7, controller="Mine", event="switch", reason="by hand", plan=other)
    yield net, sink
    torch._dynamo.reset()


Seen = tuple[precc.PrecisionModule, RecordingSink]


@pytest.mark.parametrize("what", ["average_bits", "level", "radius", "epsilon", "predicted_reduction", "loss"])
def test_each_number_of_each_row_is_a_scalar(seen: Seen, what: str) -> None:
    net, sink = seen
    rows = [row for row in net.history.of("TrustRegion") if getattr(row, what) is not None]
    assert sink.of("scalar", f"precc/TrustRegion/{what}") == [(row.step, getattr(row, what)) for row in rows]
    assert rows


def test_events_are_counted(seen: Seen) -> None:
    net, sink = seen
    for event, count in Counter(row.event for row in net.history.of("TrustRegion")).items():
        values = [value for _, value in sink.of("scalar", f"precc/TrustRegion/events/{event}")]
        assert values == [*range(1, count + 1)]


def test_a_text_says_what_a_new_plan_changes(seen: Seen) -> None:
    net, sink = seen
    rows, before = [], None
    for row in net.history:
        if row.plan != before:
            rows.append(row)
        before = row.plan
    assert [step for step, _ in sink.of("text", "precc/plan")] == [row.step for row in rows]
    assert len(rows) == 2, "TrustRegion refines before its first step"
    first, second = (text for _, text in sink.of("text", "precc/plan"))
    assert "TrustRegion refine: epsilon" in first
    assert "*: float32 -> float16" in first
    assert "    Mine switch: by hand" in second
    assert "    *: float16 -> bfloat16" in second
    assert "    0/product/fprop.weight: float16 -> float32" in second


def test_losses_are_rows_of_the_history(seen: Seen) -> None:
    net, sink = seen
    rows = net.history.of("TrainingLog")
    assert [(row.step, row.event) for row in rows] == [(5, "step"), (10, "step"), (15, "step"), (20, "step")]
    losses = sink.of("scalar", "precc/TrainingLog/loss")
    assert losses == [(row.step, row.loss) for row in rows]
    assert losses[-1][1] < losses[0][1]


def test_figures_are_of_the_plan_in_force(seen: Seen) -> None:
    _, sink = seen
    assert sink.of("scalar", "precc/work/float16")[-1] == (20, 1.0)
    assert sink.of("scalar", "precc/bits/0")[-1] == sink.of("scalar", "precc/average_bits")[-1] == (20, 16.0)
    assert sink.names("image") == {"precc/map", "precc/film"}
    assert [step for step, _ in sink.of("image", "precc/film")] == [5, 10, 15, 20]


def test_histograms_are_of_the_tensors(seen: Seen) -> None:
    net, sink = seen
    for what in ("weights", "gradients"):
        names = {f"precc/{what}/{name}" for name, _ in net.named_parameters()}
        assert {name for name in sink.names("histogram") if what in name} == names
    step, (edges, counts) = sink.of("histogram", "precc/weights/0.weight")[-1]
    last = next(net.parameters())
    assert step == 20
    assert sum(counts) == last.numel()
    assert 2.0 ** edges[-1] > last.abs().max().item() >= 2.0 ** edges[-2]


def test_a_moment_ends_with_a_flush(seen: Seen) -> None:
    _, sink = seen
    assert sink.calls[0] == "open"
    assert sink.calls[-2:] == ["flush", "close"]


def test_mixed_formats_share_the_work() -> None:
    net, sink = net_of(), RecordingSink()
    net.set_plan(precc.PrecisionPlan("e4m3", {"0/product/fprop.weight": "bf16", "0/product/fprop.input": "bf16"}))
    with precc.TrainingLog(net, sink, every=1) as log:
        trained(net, log, 1)
    first, second = 8 * 6 * 5, 8 * 5 * 3  # of each product; the input's gradient is not computed
    total = 2 * first + 3 * second
    assert sink.of("scalar", "precc/work/bfloat16")[0][1] == pytest.approx(first / total)
    assert sink.of("scalar", "precc/work/float8_e4m3fn")[0][1] == pytest.approx(1 - first / total)
    assert sink.of("scalar", "precc/bits/0") == [(1, 12.0)]
    assert sink.of("scalar", "precc/average_bits")[0][1] == pytest.approx(net.plan.average_bits)


def test_a_training_is_the_same_with_a_log() -> None:
    nets = [net_of(), net_of()]
    states = []
    for net, sinks in zip(nets, ([], [RecordingSink()]), strict=True):
        torch.manual_seed(1)
        trained(net, precc.TrainingLog(net, *sinks, every=2), 6)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(one, other)


def test_nonfinite_values_are_named() -> None:
    net, sink = net_of(), RecordingSink()
    log = precc.TrainingLog(net, sink, every=1)
    loss_of(net).backward()
    net[2].bias.grad[1] = math.nan
    log.step(math.nan)
    assert sink.of("scalar", "precc/nonfinite/gradients") == [(1, 1.0)]
    assert sink.of("text", "precc/nonfinite/gradients") == [(1, "- 2.bias: 1 of 3")]
    assert math.isnan(sink.of("scalar", "precc/TrainingLog/loss")[0][1])


def test_a_lazy_parameter_has_no_magnitudes_yet() -> None:
    torch.manual_seed(0)
    net = precc.compile(nn.Sequential(nn.Linear(6, 5), nn.LazyLinear(3)), policy="e4m3", backend="reference")
    sink = RecordingSink()
    log = precc.TrainingLog(net, sink, every=1)
    log.step()
    assert {name for name in sink.names("histogram") if "weights" in name} == {
        "precc/weights/0.bias",
        "precc/weights/0.weight",
    }


def test_figures_that_cannot_be_made_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, sink = net_of(), RecordingSink()
    log = precc.TrainingLog(net, sink, every=1)
    monkeypatch.setattr(Magnitudes, "of", lambda values: values.no_such_thing)
    with pytest.warns(precc.PrecisionWarning, match="figures of step 1 could not be made.*no_such_thing") as caught:
        trained(net, log, 3)
    assert [own.filename for own in caught] == [__file__], "once, at a line of the user's"
    assert [step for step, _ in sink.of("scalar", "precc/TrainingLog/loss")] == [1, 2, 3]
    assert not sink.names("image")
    monkeypatch.undo()
    trained(net, log, 1)
    assert "precc/weights/0.weight" in sink.names("histogram")


@pytest.mark.parametrize("loss", ["abc", [1.0], 1j, torch.tensor(1j), torch.ones(2)], ids=str)
def test_a_loss_that_is_no_number_is_refused(loss: Any) -> None:
    log = precc.TrainingLog(net_of(), every=1)
    with pytest.raises(precc.ControllerError, match="the loss of a step is one real number, not"):
        log.step(loss)
    assert log.steps == 0


@pytest.mark.parametrize("loss", [2, np.float32(2), torch.tensor([[2]])], ids=str)
def test_a_loss_is_any_real_number(loss: Any) -> None:
    net = net_of()
    precc.TrainingLog(net, every=1).step(loss)
    assert net.history[-1].loss == 2.0
    assert type(net.history[-1].loss) is float


def test_before_the_first_call_there_is_little_to_tell() -> None:
    net, sink = net_of(), RecordingSink()
    log = precc.TrainingLog(net, sink, every=1)
    log.step()
    assert sink.names("image") == sink.names("text") - {"precc/plan"} == set()
    assert "precc/weights/0.weight" in sink.names("histogram")
    bare = RecordingSink()
    precc.TrainingLog(net, bare, every=1, magnitudes=False).step()
    assert bare.names("histogram") == set()


def test_a_report_is_told() -> None:
    net, sink = net_of(), RecordingSink()
    log = precc.TrainingLog(net, sink)
    loss_of(net).backward()
    report = net.report()
    log.report(report)
    [(_, text)] = sink.of("text", "precc/report")
    assert str(report).splitlines()[0] in text
    figures = ErrorFigures(0.0, 0.25, 0.5)
    step = AnalysedStep(1.0, 1.0, "", "", predicted=figures)
    sink.entries.clear()
    log.report(replace(report, step=step))
    assert sink.of("scalar", "precc/report/predicted/gradient") == [(0, 0.5)]
    assert sink.of("scalar", "precc/report/predicted/loss") == [(0, 0.25)]
    assert not sink.of("scalar", "precc/report/measured/loss")


def test_a_long_history_is_shown_as_the_whole_would_be() -> None:
    net = net_of()
    loss_of(net).backward()
    plans = [precc.PrecisionPlan(name) for name in ("e4m3", "bf16", "fp32")]
    for step in range(3500):
        net.history.note(step=step, controller="A", event="b", plan=plans[step // 1200] if step % 600 == 7 else None)
    formats = NetFormats.of(session_of(net).graphs)
    whole = FilmStrip.of(net.history, list(formats.operands), formats.format_of)
    shown = formats.film(net.history)
    assert len(shown.frames) == 1000
    assert (film_picture(shown) == film_picture(whole)).all()


def test_one_that_fails_is_heard_of_and_ends_nothing() -> None:
    net, broken, sink = net_of(), RecordingSink(), RecordingSink()
    log = precc.TrainingLog(net, broken, sink, every=1)
    trained(net, log, 1)
    broken.fails = ConnectionError("no server")
    with pytest.warns(precc.PrecisionWarning, match=r"RecordingSink failed \(ConnectionError: no server\)") as caught:
        trained(net, log, 3)
    assert [own.filename for own in caught] == [__file__], "once, at a line of the user's"
    assert log.lost == {"RecordingSink": 6}, "the row and the figures of three steps"
    assert len(net.history) == 4
    assert [step for step, _ in sink.of("scalar", "precc/TrainingLog/loss")] == [1, 2, 3, 4]
    broken.fails = None
    with pytest.warns(precc.PrecisionWarning, match=r"lacks 6 of 8 rows.*last error was ConnectionError: no server"):
        log.close()
    assert broken.calls[-1] == sink.calls[-1] == "close"


def test_one_that_fails_is_tried_less_and_less_often() -> None:
    now, rows = [0.0], Rows()
    rows.fails = OSError("gone")
    guarded = Guarded(rows, "Rows", lambda: now[0])
    row = HistoryRow(0, "A", "b")
    tried = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for second in range(200):
            now[0] = float(second)
            before = guarded._until
            guarded.tell(lambda own: own.on_row(row, None))
            tried += [second] * (guarded._until != before)
    assert tried == [0, 1, 3, 7, 15, 31, 63, 127, 191]
    assert guarded.lost == 200
    rows.fails, now[0] = None, 255.0
    guarded.tell(lambda own: own.on_row(row, None))
    assert rows.rows == [row]
    assert guarded.lost == 200


def test_warnings_as_errors_end_the_training() -> None:
    net, rows = net_of(), Rows()
    log = precc.TrainingLog(net, rows, every=1)
    rows.fails = ValueError("mine")
    with pytest.raises(precc.PrecisionWarning, match="Rows failed"):
        log.step()
    with pytest.raises(precc.PrecisionWarning, match="Rows lacks 1 of 1"):
        log.close()
    rows.fails = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        precc.TrainingLog(net, rows, every=1).step()


def test_a_tracker_that_cannot_be_opened_is_an_error() -> None:
    first, second = RecordingSink(), RecordingSink()
    second.fails = PermissionError("read-only")
    net = net_of()
    with pytest.raises(PermissionError):
        precc.TrainingLog(net, first, second)
    assert first.calls == ["open", "close failed"]
    net.history.note(step=0, controller="A", event="b")
    assert not first.entries


def test_an_error_of_the_training_is_told_at_the_end() -> None:
    sink = RecordingSink()
    net = net_of()
    with pytest.raises(ZeroDivisionError), precc.TrainingLog(net, sink):
        raise ZeroDivisionError
    assert sink.calls == ["open", "close failed"]


def test_nobody_needs_to_keep_a_log() -> None:
    net, sink = net_of(), RecordingSink()
    precc.TrainingLog(net, sink)
    loss_of(net).backward()
    gc.collect()
    net.history.note(step=3, controller="A", event="b")
    assert sink.of("scalar", "precc/A/events/b") == [(3, 1.0)]
    shared = copy.copy(net)
    del net
    gc.collect()
    shared.history.note(step=4, controller="A", event="b")
    assert sink.of("scalar", "precc/A/events/b")[1:] == [(4, 2.0)]
    del shared
    gc.collect()
    assert sink.calls[-1] == "close"


def test_a_closed_log_tells_nothing() -> None:
    net, sink = net_of(), RecordingSink()
    log = precc.TrainingLog(net, sink)
    log.close()
    log.close()
    net.history.note(step=3, controller="A", event="b")
    assert sink.calls == ["open", "close"]


def test_the_first_rank_alone_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "present", classmethod(lambda cls: cls(size=2, rank=1)))
    net, sink, rows = net_of(), RecordingSink(), Rows()
    with precc.TrainingLog(net, sink, rows, every=1) as log:
        trained(net, log, 2)
    assert sink.calls == rows.rows == []
    assert [row.step for row in net.history] == [1, 2], "the history is that of the first rank"


def test_a_training_goes_on_where_it_was(tmp_path: Path) -> None:
    net = net_of()
    log = precc.TrainingLog(net, every=2)
    trained(net, log, 5)
    precc.save_checkpoint(tmp_path / "run.pt", net=net, log=log)
    for parts in (("net", "log"), ("log", "net")):
        again, sink = net_of(), RecordingSink()
        other = precc.TrainingLog(again, sink, every=2)
        own = {"net": again, "log": other}
        precc.load_checkpoint(tmp_path / "run.pt", **{name: own[name] for name in parts})
        trained(again, other, 1)
        assert other.steps == 6
        assert sink.of("scalar", "precc/TrainingLog/events/step") == [(6, 3.0)], "two before"
        assert not sink.of("text", "precc/plan"), "the plan is that of before"


@pytest.mark.parametrize("state", [None, {}, {"steps": -1}, {"steps": 1.0}, {"steps": 1, "more": 2}])
def test_what_is_no_state_is_refused(state: Any) -> None:
    net = net_of()
    log = precc.TrainingLog(net)
    with pytest.raises(precc.ControllerError, match="no state of a TrainingLog"):
        log.load_state_dict(state)


def test_wrong_arguments_are_refused() -> None:
    net = net_of()
    for every in (0, 2.0, True):
        with pytest.raises(precc.ControllerError, match="every is the number of steps"):
            precc.TrainingLog(net, every=every)
    for wrong in (Rows, RecordingSink, "runs", None):
        with pytest.raises(precc.ControllerError, match="writes to sinks"):
            precc.TrainingLog(net, wrong)
    with pytest.raises(precc.PreccError, match="TrainingLog takes a net made by precc.compile"):
        precc.TrainingLog(nn.Linear(2, 2))
