"""``precc train``: controllers, fixed plans, what it leaves, Ctrl-C, and going on exactly where it was."""

import json
import os
import random
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import precc
from precc.cli import main
from precc.commands.factories import task_of_spec
from precc.commands.train_settings import TrainSettings
from precc.commands.trainers import AROUND, CLOSURES, LEFT_OUT, OPTIMIZERS, RATES, Trainer
from precc.commands.training_run import CHECKPOINT, SETTINGS, Stop, TrainingRun, _seed, stopping
from precc.control.controllers import CONTROLLERS
from precc.errors import CaptureError, DataError
from precc.task import Batch
from tests.command_files import write_files

FILES = {"settings.json", "checkpoint.pt", "plan.json", "history.json", "report.txt", "report.json", "report.html"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = tmp_path_factory.mktemp("train")
    write_files(own)
    return own


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def train(*arguments: str) -> int:
    return main(["train", *" ".join(arguments).split()])


def losses(folder: Path | str) -> list[float]:
    """Of all steps, as the checkpoint has them."""
    document = torch.load(Path(folder) / CHECKPOINT, weights_only=True)
    found: list[float] = document["data"]["losses"]
    return found


def test_every_controller_can_be_made_or_is_said_not_to_be() -> None:
    assert {*AROUND, *CLOSURES, *LEFT_OUT} == set(CONTROLLERS)
    assert {*OPTIMIZERS, *CLOSURES} == set(RATES)


@pytest.mark.parametrize("name", [*AROUND, *CLOSURES])
def test_a_few_steps_with_each(name: str, tmp_path: Path) -> None:
    optimizer = "" if name in CLOSURES else "sgd"
    plan = precc.PrecisionPlan("e4m3").to_json() if name in AROUND and AROUND[name].plan else None
    settings = TrainSettings("net.py:task", None, name, plan, optimizer, 0.01, None, 3, 0, "reference")
    run = TrainingRun(tmp_path, settings, Trainer(task_of_spec("net.py:task"), settings))
    run.go(Silent(), Stop())  # type: ignore[arg-type]
    assert run.step == 3
    assert len(set(run.losses)) == 3
    rows = run.trainer.net.history
    assert [row.step for row in rows] == sorted(row.step for row in rows)
    if name in CLOSURES:  # which note each step
        assert {row.step: row.loss for row in rows} == dict(enumerate(run.losses))
    else:
        assert [row.loss for row in rows if row.controller == "train"] == [None, *run.losses]
    run.write(analyse=True)
    assert json.loads((tmp_path / "report.json").read_text())["step"]["loss"] > 0


class Silent:
    """A bar that nobody sees."""

    def at(self, what: str) -> None:
        pass

    def advance(self, what: str | None = None) -> None:
        pass


def test_what_a_training_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "run"
    assert train(f"net.py:task --controller TrustRegion --epochs 2 --backend reference --out {out} --json") == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert (document["steps"], document["epochs"], document["ended"]) == (10, 2, True)
    assert printed.err.splitlines()[0].startswith("epoch 1: step 5, loss ")
    assert {own.name for own in out.iterdir()} == FILES == {Path(own).name for own in document["wrote"]}
    assert document["loss"] == losses(out)[-1]
    history = precc.History.from_json(json.loads((out / "history.json").read_text()))
    assert history[-1].plan in history.plans
    assert {row.controller for row in history} == {"TrustRegion"}
    assert precc.PrecisionPlan.load(out / "plan.json").slots
    report = main(["report", str(out / "report.json")])
    assert report == 0
    assert "precision of Net" in capsys.readouterr().out
    assert "precision of Net" in (out / "report.txt").read_text()


def test_a_training_in_a_plan(tmp_path: Path) -> None:
    """Which rounds updates and scales losses, and learns."""
    plan = precc.PrecisionPlan(
        "e4m3", default_update=precc.UpdateFormats(master=precc.Precision("bf16")), loss_scaling=64
    )
    plan.save(tmp_path / "plan.json")
    out = tmp_path / "run"
    given = f"net.py:task --plan {tmp_path}/plan.json --optimizer sgd --lr 0.1 --epochs 3 --backend reference"
    assert train(given, f"--out {out}") == 0
    document = torch.load(out / CHECKPOINT, weights_only=True)
    values = document["states"]["net"]["values"]
    assert all(torch.equal(own, own.bfloat16().float()) for own in values.values())
    assert "scaler" in document["states"]
    report = (out / "report.txt").read_text()
    assert "updates are not rounded" not in report
    assert "losses are not scaled" not in report
    history = precc.History.from_json(json.loads((out / "history.json").read_text()))
    assert [row.loss for row in history] == [None, *losses(out)]
    assert [row.step for row in history] == [*range(16)]


@pytest.mark.parametrize("controller", ["--plan e4m3", "--controller TrustRegion", "--controller NoiseAware"])
def test_ctrl_c_leaves_files_whole_and_resume_goes_on(
    controller: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training that was stopped within an epoch and resumed is the one that was not, step by step."""
    given = f"{controller} --epochs 3 --backend reference"
    assert train(f"net.py:interrupted {given} --out {tmp_path}/stopped") == 130
    error = capsys.readouterr().err
    assert "stopping after this step; Ctrl-C again stops at once" in error
    assert f"interrupted after step 8: precc train --resume {tmp_path}/stopped goes on" in error
    assert {own.name for own in (tmp_path / "stopped").iterdir()} == FILES
    assert len(losses(tmp_path / "stopped")) == 8
    rename(tmp_path / "stopped", "net.py:task")
    assert train(f"--resume {tmp_path}/stopped") == 0
    assert train(f"net.py:task {given} --out {tmp_path}/whole") == 0
    assert len(losses(tmp_path / "whole")) == 15
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    parts = [torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("stopped", "whole")]
    first, second = (own["states"]["net"]["values"] for own in parts)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("model", "controller"), [("bad_batch", "TrustRegion"), ("bad_shape", "TrustRegion"), ("bad_shape", "NoiseAware")]
)
def test_an_error_of_the_users_keeps_the_steps_before_it(
    model: str, controller: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What goes on after it is the training that had none, step by step."""
    optimizer = "" if controller in CLOSURES else "sgd"
    settings = TrainSettings(f"net.py:{model}", None, controller, None, optimizer, 0.1, 2, None, 0, "reference")

    def begun(name: str) -> TrainingRun:
        (tmp_path / name).mkdir(exist_ok=True)
        run = TrainingRun(tmp_path / name, settings, Trainer(task_of_spec(settings.model), settings))
        run.resume()
        return run

    with pytest.raises(CaptureError, match="a batch of epoch 1 fails|Net fails on these inputs"):
        begun("failed").go(Silent(), Stop())  # type: ignore[arg-type]
    assert f"8 steps are kept: precc train --resume {tmp_path}/failed goes on after" in capsys.readouterr().err
    monkeypatch.setenv("GOOD_BATCHES", "1")
    assert begun("failed").step == 8
    for name in ("failed", "whole"):
        begun(name).go(Silent(), Stop())  # type: ignore[arg-type]
    assert losses(tmp_path / "failed") == losses(tmp_path / "whole")
    parts = [torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("failed", "whole")]
    first, second = (own["states"]["net"]["values"] for own in parts)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_was_trained_is_used_by_other_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert train(f"net.py:task --plan e4m3 --lr 0.1 --steps 3 --measure 2 --backend reference --out {out}") == 0
    assert json.loads((out / "report.json").read_text())["step"]["draws"] == 2
    capsys.readouterr()
    assert main(["report", "net.py:task", "--weights", f"{out}/checkpoint.pt", "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)["step"]["loss"]
    values = torch.load(out / CHECKPOINT, weights_only=True)["states"]["net"]["values"]
    task = task_of_spec("net.py:task")
    task.module.load_state_dict(values)
    torch.save(values, tmp_path / "state.pt")
    assert main(["report", "net.py:task", "--weights", f"{tmp_path}/state.pt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"]["loss"] == trained
    precc.save_checkpoint(tmp_path / "other.pt", step=3)
    assert main(["report", "net.py:task", "--weights", f"{tmp_path}/other.pt"]) == 1
    assert "other.pt' has 0 nets that precc compiled, not one" in capsys.readouterr().err


def test_rows_of_steps_are_thinned_and_end_with_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precc.commands.training_run._ROWS", 2)
    cases = (("task", 4, [0, 2, 4]), ("task_by_name", None, [0, 2, 3]), ("task", None, [0, 1, 2, 4, 5]))
    for model, steps, kept in cases:
        settings = TrainSettings(f"net.py:{model}", None, "NoiseAware", None, "sgd", 0.1, 1, steps, 0, "reference")
        run = TrainingRun(tmp_path, settings, Trainer(task_of_spec(settings.model), settings))
        run.go(Silent(), Stop())  # type: ignore[arg-type]
        run.write(analyse=False)
        history = precc.History.from_json(json.loads((tmp_path / "history.json").read_text()))
        assert [row.step for row in history if row.controller == "train"] == kept
        assert [history[0].step, history[-1].step] == [0, run.step]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": "x"}, "lr is 'x'"),
        ({"lr": -1.0}, "lr is a finite number above 0, not -1.0"),
        ({"lr": True}, "lr is True"),
        ({"controller": "Nonsense"}, "controller 'Nonsense': expected "),
        ({"controller": []}, "controller is []"),
        ({"optimizer": "adam"}, "optimizer 'adam': expected "),
        ({"model": 5}, "model is 5"),
        ({"plan": 5}, "plan is 5"),
        ({"weights": 4}, "weights is 4"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"seed": -1}, "seed is a number from 0"),
        ({"epochs": "2"}, "epochs is '2'"),
        ({"epochs": -1}, "epochs is a number of at least 1, not -1"),
        ({"steps": 0}, "steps is a number of at least 1, not 0"),
        ({"epochs": None}, "neither epochs nor steps say when it ends"),
    ],
)
def test_settings_that_were_edited(
    changes: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / SETTINGS
    TrainSettings("net.py:task", None, None, None, "sgd", 0.1, 1, None, 0, "reference").save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert train(f"--resume {tmp_path}") == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def rename(folder: Path, model: str) -> None:
    """Have a training go on with another factory, here one that does not stop."""
    path = folder / SETTINGS
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "model": model}))


def test_the_second_ctrl_c_ends_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopping() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with_thread: list[bool] = []
    thread = threading.Thread(target=lambda: with_thread.append(_unasked()))
    thread.start()
    thread.join()
    assert with_thread == [False]


def _unasked() -> bool:
    with stopping() as stop:
        return stop.asked


def test_a_training_goes_on_beyond_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(f"net.py:task_by_name --controller AdaPT --epochs 1 --backend reference --out {tmp_path}/run") == 0
    assert train(f"--resume {tmp_path}/run") == 0
    assert "it has ended, after 3 steps" in capsys.readouterr().out
    first = losses(tmp_path / "run")
    assert train(f"--resume {tmp_path}/run --epochs 2") == 0
    assert losses(tmp_path / "run")[:3] == first
    assert len(losses(tmp_path / "run")) == 6
    assert TrainSettings.load(tmp_path / "run" / SETTINGS).epochs == 2


def test_the_checkpoint_is_kept_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precc.commands.training_run._KEEP", -1.0)
    settings = TrainSettings("net.py:task", None, None, None, "sgd", 0.1, 1, None, 0, "reference")
    run = TrainingRun(tmp_path, settings, Trainer(task_of_spec("net.py:task"), settings))
    seen = []

    class Looking(Silent):
        def advance(self, what: str | None = None) -> None:
            seen.append(len(losses(tmp_path)) if (tmp_path / CHECKPOINT).exists() else 0)

    run.go(Looking(), Stop())  # type: ignore[arg-type]
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "train what? Name a MODEL"),
        ("net.py:task --controller ALRS", "ALRS has to know the widths"),
        ("net.py:task --controller TrustRegion --optimizer sgd", "TrustRegion is an optimizer itself"),
        ("net.py:task --controller SharpnessGuard", "SharpnessGuard begins with a plan, which it refines: give one"),
        ("net.py:task --controller STORM --plan e4m3", "STORM chooses the plan: leave out --plan"),
        ("net.py:task --plan absent.json", "'absent.json' is neither a format"),
        ("net.py:task --weights absent.pt", "absent.pt"),
        ("net.py:task --weights other.json", "no state dict that torch.load can read safely"),
        ("net.py:task --backend tpu", "unknown backend 'tpu'"),
        ("net.py:fails_in_forward", "the forward of Wrong fails: RuntimeError: mat1 and mat2 shapes"),
        ("net.py:fails_in_loss", "the loss fails: AttributeError: 'Tensor' object has no attribute 'absent', at "),
        ("net.py:two_losses", "the loss is one real number, not a torch.float32 tensor of shape [8, 3]"),
        ("net.py:no_loss", "has no loss, which is one number: give the loss as well"),
        ("net.py:no_batches", "epoch 0 has no batches"),
        ("net.py:strange_batches", "a batch is a pair (inputs, targets), a dict"),
        ("--resume absent", "'absent' has no training that can be resumed"),
        ("--resume absent --lr 3", "leave out lr"),
        ("net.py:task --out net.py", "'net.py' is a file, not a folder"),
    ],
)
def test_what_cannot_be_trained(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if "--out" in arguments or "--resume" in arguments else [f"--out {tmp_path}"]
    backend = [] if "--backend" in arguments or "--resume" in arguments else ["--backend reference"]
    assert train(arguments, *given, *backend) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("precc: ")
    assert error.count("\n") == 1


def test_a_folder_that_has_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / SETTINGS).write_text('{"format": "precc training"}')
    assert train(f"net.py:task --backend reference --out {tmp_path}") == 1
    assert f"has a training already: --resume {tmp_path}" in capsys.readouterr().err
    for text, message in (('{"format": "precc training"}', "is not of a training"), ("{", "is damaged")):
        (tmp_path / SETTINGS).write_text(text)
        with pytest.raises(DataError, match=message):
            TrainSettings.load(tmp_path / SETTINGS)


def test_a_loss_that_is_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = "--plan bf16 --steps 2 --backend reference"
    assert train(f"net.py:diverges {given} --out {tmp_path}") == 1
    error = capsys.readouterr().err
    assert "the loss of step 1 is " in error
    assert (tmp_path / "report.json").exists()


def test_totals(folder: Path) -> None:
    """Steps of the whole, where batches can be counted or steps are given."""
    task = task_of_spec("net.py:task_by_name")
    for model, epochs, steps, total in (
        ("net.py:task_by_name", 2, None, 6),
        ("net.py:task_by_name", 2, 4, 4),
        ("net.py:task", None, 7, 7),
        ("net.py:task", 2, None, None),
    ):
        settings = TrainSettings(model, None, None, None, "sgd", 0.1, epochs, steps, 0, "reference")
        assert TrainingRun(folder, settings, Trainer(task_of_spec(model), settings)).total == total
    assert Batch.of(next(iter(task.epoch(0)))).named_inputs.keys() == {"x"}


def test_each_epoch_has_numbers_of_its_own() -> None:
    def drawn(start: int, epoch: int) -> tuple[float, float, float]:
        _seed(start, epoch)
        return float(torch.rand(())), float(np.random.rand()), random.random()

    draws = [drawn(*own) for own in ((0, 0), (0, 1), (1, 0))]
    assert [len(set(own)) for own in zip(*draws, strict=True)] == [3, 3, 3]
    assert drawn(0, 1) == draws[1]


def test_two_trainings_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is refused before it computes; one that cannot begin leaves the folder to others."""
    settings = TrainSettings("net.py:task", None, None, None, "sgd", 0.1, 1, None, 0, "reference")
    settings.save_first(tmp_path / SETTINGS)
    with pytest.raises(FileExistsError):
        settings.save_first(tmp_path / SETTINGS)
    assert train(f"net.py:fails_in_loss --backend reference --out {tmp_path}/failed") == 1
    assert not (tmp_path / "failed" / SETTINGS).exists()


def test_a_new_end_is_kept_once_the_checkpoint_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = TrainSettings("net.py:task", None, None, None, "sgd", 0.1, 1, None, 0, "reference")
    settings.save(tmp_path / SETTINGS)
    (tmp_path / CHECKPOINT).write_bytes(b"damaged")
    assert train(f"--resume {tmp_path} --epochs 9") == 1
    assert TrainSettings.load(tmp_path / SETTINGS) == settings


def test_ctrl_c_while_the_last_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training has ended, and nothing goes on."""
    written = TrainingRun.write

    def write(self: TrainingRun, **own: object) -> list[str]:
        os.kill(os.getpid(), signal.SIGINT)
        return written(self, analyse=False)

    monkeypatch.setattr(TrainingRun, "write", write)
    assert train(f"net.py:task --plan e4m3 --steps 1 --backend reference --out {tmp_path}") == 130
    error = capsys.readouterr().err
    assert "goes on" not in error
    assert "precc: interrupted after the last step: all files are written" in error
