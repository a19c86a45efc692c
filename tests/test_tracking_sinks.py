"""The trackers themselves: what is written is read back by their own means."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import precc
from precc.tracking.sink import Sink
from precc.tracking.sinks import SINKS
from tests.recording_sink import RecordingSink

#: Numbers by step, and a histogram.
SCALARS = [(0, 1.5), (7, math.nan), (9, math.inf), (2, -3.0)]
EDGES, COUNTS = (-3, -2, -1, 0), (5, 0, 2)
NAME = "precc/bits/to out/product#1"
SAFE = "precc/bits/to_x20_out/product-1"
PICTURE = np.full((9, 12, 3), (0, 114, 178), np.uint8)


def written(sink: Sink) -> None:
    sink.open()
    for step, value in SCALARS:
        sink.scalar(NAME, value, step)
        sink.flush()
    sink.histogram("precc/weights/a#1.weight", EDGES, COUNTS, 3)
    sink.image("precc/map", PICTURE, 3)
    sink.text("precc/plan", "    *: a -> b", 3)
    sink.flush()


def read_tensorboard(folder: Path, sink: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink.close()
    events = EventAccumulator(str(folder), {"tensors": 0, "images": 0}).Reload()
    found = [(own.step, own.value) for own in events.Scalars(SAFE)]
    assert str(found) == str(SCALARS)
    [histogram] = events.Histograms("precc/weights/a-1.weight")
    value = histogram.histogram_value
    assert (histogram.step, value.min, value.max, value.num) == (3, -3.0, 0.0, 7.0)
    assert (list(value.bucket_limit), list(value.bucket)) == ([-2.0, -1.0, 0.0], [5.0, 0.0, 2.0])
    assert value.sum == -2.5 * 5 - 0.5 * 2
    [image] = events.Images("precc/map")
    assert (image.step, image.height, image.width) == (3, 9, 12)
    [text] = events.Tensors("precc/plan/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "    *: a -> b"


def read_wandb(folder: Path, sink: Any) -> None:
    last = dict(sink.run.summary)
    assert last[SAFE] == -3.0
    assert last["precc/step"] == 3
    assert last["_step"] == len(SCALARS), "each moment is one step of wandb's"
    histogram = last["precc/weights/a-1.weight"]
    assert (histogram["bins"], histogram["values"]) == ([*EDGES], [*COUNTS])
    assert (last["precc/map"]["height"], last["precc/map"]["width"]) == (9, 12)
    page = (Path(sink.run.dir) / last["precc/plan"]["path"]).read_text()
    assert page.endswith("<pre>    *: a -&gt; b</pre>")
    sink.close()


def read_mlflow(folder: Path, sink: Any) -> None:
    import mlflow

    sink.close()
    client = mlflow.MlflowClient()
    run = client.get_run(sink.run_id)
    assert run.info.status == "FINISHED"
    found = [(own.step, own.value) for own in client.get_metric_history(sink.run_id, SAFE)]
    assert str(sorted(found)) == str(sorted(SCALARS))

    def read(path: str) -> str:
        return Path(client.download_artifacts(sink.run_id, path)).read_text()

    histograms = json.loads(read("precc/histograms/00000003.json"))
    assert histograms == {"precc/weights/a#1.weight": {"edges": [*EDGES], "counts": [*COUNTS]}}
    assert read("precc/plan/00000003.md") == "    *: a -> b"
    assert any("precc~map" in own.path for own in client.list_artifacts(sink.run_id, "images"))


def make_mlflow(folder: Path) -> Sink:
    import mlflow

    mlflow.set_tracking_uri((folder / "store").as_uri())
    return precc.MLflow(run_name="a")


#: How each tracker is made in a folder, and read back.
READ: dict[str, tuple[Callable[[Path], Sink], Callable[[Path, Any], None]]] = {
    "tensorboard": (precc.TensorBoard, read_tensorboard),
    "wandb": (lambda folder: precc.Wandb(mode="offline", dir=str(folder), project="p"), read_wandb),
    "mlflow": (make_mlflow, read_mlflow),
}


@pytest.fixture
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_SILENT", "MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.mark.usefixtures("_quiet")
@pytest.mark.filterwarnings("ignore")  # the trackers' own
@pytest.mark.parametrize("name", SINKS)
def test_what_is_written_is_read_back(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name, exc_type=ImportError)
    make, read = READ[name]
    sink = make(tmp_path)
    written(sink)
    read(tmp_path, sink)


@pytest.mark.parametrize("name", SINKS)
def test_a_missing_package_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [own for own in sys.modules if own.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(precc.ExtraError, match=rf"pip install 'precc\[{name}\]'"):
        SINKS[name](*["runs"] * (name == "tensorboard"))


def test_a_writer_of_the_users_stays_open(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        sink = precc.TensorBoard(writer)
        written(sink)
        sink.close()
        writer.add_scalar("own", 1.0, 0)
    read_tensorboard(tmp_path, SimpleNamespace(close=lambda: None))


class FakeWandb:
    """As much of wandb as is used."""

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, Any], bool]] = []
        self.metrics: list[tuple[Any, ...]] = []
        self.ended: int | None = None
        self.begun: dict[str, Any] = {}

    def init(self, **options: Any) -> "FakeWandb":
        self.begun = options
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: dict[str, Any], *, commit: bool) -> None:
        self.logged.append((values, commit))

    def finish(self, exit_code: int) -> None:
        self.ended = exit_code

    def Histogram(self, np_histogram: Any) -> Any:
        return np_histogram

    Image = Html = staticmethod(lambda value: value)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_a_moment_is_one_step_of_wandb(wandb: FakeWandb) -> None:
    sink = precc.Wandb(project="p")
    assert not wandb.begun, "a rank that does not write begins no run"
    written(sink)
    assert wandb.begun == {"project": "p"}
    assert wandb.metrics == [("precc/step", None), ("precc/*", "precc/step")]
    assert [own["precc/step"] for own, _ in wandb.logged] == [0, 7, 9, 2, 3]
    assert all(commit for _, commit in wandb.logged)
    sink.close(failed=True)
    assert wandb.ended == 1


def test_a_run_of_the_users_goes_on(wandb: FakeWandb) -> None:
    sink = precc.Wandb(wandb, commit=False)
    written(sink)
    sink.close()
    assert not any(commit for _, commit in wandb.logged)
    assert wandb.ended is None


def test_wandb_takes_512_bins(wandb: FakeWandb) -> None:
    sink = precc.Wandb()
    sink.histogram("precc/a", range(1301), [1] * 1300, 0)
    sink.flush()
    counts, edges = wandb.logged[0][0]["precc/a"]
    assert len(counts) == len(edges) - 1 <= 512
    assert counts.sum() == 1300
    assert (edges[0], edges[1], edges[-1]) == (0, 3, 1300)


class FakeMLflow:
    """As much of mlflow as is used; it is its own client."""

    def __init__(self) -> None:
        self.entities = SimpleNamespace(Metric=lambda *values: values)
        self.active: Any = None
        self.metrics: list[Any] = []
        self.files: dict[str, Any] = {}
        self.ended: list[Any] = []
        self.fails = False

    def MlflowClient(self) -> "FakeMLflow":
        return self

    def active_run(self) -> Any:
        return self.active

    def start_run(self, **options: Any) -> Any:
        self.active = SimpleNamespace(info=SimpleNamespace(run_id="new", **options))
        return self.active

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def end_run(self, status: str) -> None:
        self.ended.append(status)

    def set_terminated(self, run_id: str, status: str) -> None:
        self.ended.append((run_id, status))

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        assert len(metrics) <= 1000
        if self.fails:
            raise ConnectionError
        self.metrics += metrics

    def log_dict(self, run_id: str, data: Any, path: str) -> None:
        self.files[path] = data

    log_text = log_dict

    def log_image(self, run_id: str, pixels: Any, key: str, step: int) -> None:
        self.files[key] = pixels


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMLflow:
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    return fake


def test_what_mlflow_did_not_take_is_sent_again(mlflow: FakeMLflow) -> None:
    sink = precc.MLflow(seconds=0)
    sink.open()
    mlflow.fails = True
    for step in range(1500):
        sink.scalar(NAME, 1.0, step)
    with pytest.raises(ConnectionError):
        sink.flush()
    mlflow.fails = False
    sink.close(failed=True)
    assert [(name, step) for name, _, _, step in mlflow.metrics] == [(SAFE, step) for step in range(1500)]
    assert mlflow.ended == ["FAILED"]


def test_mlflow_is_not_asked_at_every_step(mlflow: FakeMLflow) -> None:
    sink = precc.MLflow(seconds=1000)
    written(sink)
    sent = len(mlflow.metrics)
    assert sent == 1, "the first at once"
    sink.close()
    assert len(mlflow.metrics) == len(SCALARS)
    assert {"precc/map", "precc/plan/00000003.md", "precc/histograms/00000003.json"} == set(mlflow.files)


def test_runs_of_mlflow_that_were_there_go_on(mlflow: FakeMLflow) -> None:
    given = precc.MLflow("old")
    given.open()
    given.close()
    assert mlflow.active is None
    mlflow.active = SimpleNamespace(info=SimpleNamespace(run_id="mine"))
    active = precc.MLflow()
    written(active)
    active.close()
    assert active.run_id == "mine"
    assert not mlflow.ended


def test_the_recording_tracker_is_one() -> None:
    assert isinstance(RecordingSink(), Sink)
    assert set(READ) == set(SINKS)
