"""``precc train``: train a model in dynamic precision, or in a fixed plan."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from precc.commands.arguments import add_file, add_folder, count, draws, rate, seed
from precc.commands.command import Command
from precc.commands.factories import WEIGHTS_HELP, add_model, load_weights, task_of_spec, whole
from precc.commands.output import note, progress, say
from precc.commands.places import writable_folder
from precc.commands.steps import PLAN_HELP, plan_of
from precc.commands.train_settings import TrainSettings
from precc.commands.trainers import AROUND, CLOSURES, LEFT_OUT, OPTIMIZERS, RATES, Trainer
from precc.commands.training_run import CHECKPOINT, SETTINGS, TrainingRun, stopping
from precc.errors import ControllerError, DataError, PlanError

__all__ = ["TRAIN"]

_CONTROLLERS = (*AROUND, *CLOSURES)

#: What a training that is resumed has already.
_FIXED = ("weights", "controller", "plan", "optimizer", "lr", "seed", "backend")


def _add(parser: argparse.ArgumentParser) -> None:
    add_model(parser, nargs="?")
    add_file(parser, "--weights", metavar="FILE", help=f"{WEIGHTS_HELP}, to start from")
    without = "; ".join(f"{name} has {what}" for name, what in LEFT_OUT.items())
    parser.add_argument(
        "--controller",
        metavar="NAME",
        choices=[*_CONTROLLERS, *LEFT_OUT],
        help=f"what chooses formats: {', '.join(_CONTROLLERS)} (default: NoiseAware). Only from Python: {without}",
    )
    add_file(
        parser, "--plan", "--policy", metavar="PLAN", help=f"without a controller, or for SharpnessGuard: {PLAN_HELP}"
    )
    parser.add_argument(
        "--optimizer",
        choices=list(OPTIMIZERS),
        help="default: adamw; sgd has momentum 0.9; TrustRegion and STORM are one",
    )
    rates = ", ".join(f"{rate:g} of {name}" for name, rate in RATES.items())
    parser.add_argument("--lr", type=rate, help=f"learning rate, or the first radius (default: {rates})")
    parser.add_argument("--epochs", type=count, help="default: 1, unless --steps says when it ends")
    parser.add_argument("--steps", type=count, help="after which it ends, if the epochs have not ended before")
    parser.add_argument("--seed", type=seed, help="default: 0")
    parser.add_argument("--backend", help="auto, inductor, cpp or reference (default: auto)")
    parser.add_argument(
        "--measure",
        type=draws,
        default=0,
        metavar="N",
        help="also measure errors for the report, in N draws, at least 2",
    )
    add_folder(parser, "--out", default=None, help="folder for plan, reports, history and checkpoint (default: run)")
    add_folder(parser, "--resume", metavar="FOLDER", help="go on there; --epochs or --steps may move the end")


def _run(chosen: argparse.Namespace) -> int:
    run = _resumed(chosen) if chosen.resume else _fresh(chosen)
    if run.ended:
        say(chosen, _document(run, []), f"it has ended, after {run.step} steps: a larger --epochs or --steps goes on")
        return 0
    with stopping() as stop:
        with progress(chosen, run.total, run.step) as bar:
            bar.at("compiling")
            run.go(bar, stop)
        wrote = run.write(analyse=not stop.asked, measure=chosen.measure)
    _tell(chosen, run, wrote)
    if stop.asked:
        went_on = f"after step {run.step}: precc train --resume {run.folder} goes on"
        note(f"interrupted {'after the last step: all files are written' if run.ended else went_on}")
        return 130
    if run.diverged:
        note(f"the loss of step {run.step - 1} is {run.losses[-1]}")
    return 1 if run.diverged else 0


def _fresh(chosen: argparse.Namespace) -> TrainingRun:
    settings = _settings(chosen)
    folder = writable_folder(chosen.out or "run")
    with _claimed(folder, settings):
        return TrainingRun(folder, settings, _trainer(settings))


@contextmanager
def _claimed(folder: Path, settings: TrainSettings) -> Iterator[None]:
    """The settings in a folder that has none: of two trainings that begin there at once, one is refused."""
    try:
        settings.save_first(folder / SETTINGS)
    except FileExistsError:
        raise DataError(
            f"{str(folder)!r} has a training already: --resume {folder}, or another folder by --out"
        ) from None
    try:
        yield
    except BaseException:
        (folder / SETTINGS).unlink(missing_ok=True)  # nothing was trained
        raise


def _resumed(chosen: argparse.Namespace) -> TrainingRun:
    given = [name for name in ("model", "out", *_FIXED) if getattr(chosen, name) is not None]
    if given:
        raise PlanError(f"--resume goes on with what the training has: leave out {given[0]}")
    folder = Path(chosen.resume)
    settings = TrainSettings.load(folder / SETTINGS)
    writable_folder(chosen.resume)
    if chosen.epochs is not None or chosen.steps is not None:
        settings = replace(settings, epochs=chosen.epochs, steps=chosen.steps)
    started = (folder / CHECKPOINT).exists()  # which has other weights than the training began with
    run = TrainingRun(folder, settings, _trainer(replace(settings, weights=None) if started else settings))
    run.resume()
    settings.save(folder / SETTINGS)  # with the end as it is now
    return run


def _trainer(settings: TrainSettings) -> Trainer:
    task = task_of_spec(settings.model, settings.seed)
    if settings.weights is not None:
        load_weights(task.module, settings.weights)
    return Trainer(task, settings)


def _settings(chosen: argparse.Namespace) -> TrainSettings:
    if chosen.model is None:
        raise PlanError("train what? Name a MODEL, such as lenet5 or net.py:factory, or --resume a folder")
    controller = _controller(chosen)
    if controller in CLOSURES and chosen.optimizer is not None:
        raise ControllerError(f"{controller} is an optimizer itself: leave out --optimizer")
    optimizer = "" if controller in CLOSURES else chosen.optimizer or "adamw"
    rate = chosen.lr if chosen.lr is not None else RATES[optimizer or str(controller)]
    epochs = 1 if chosen.epochs is None and chosen.steps is None else chosen.epochs
    return TrainSettings(
        model=whole(chosen.model),
        weights=None if chosen.weights is None else str(Path(chosen.weights).resolve()),
        controller=controller,
        plan=None if chosen.plan is None else plan_of(chosen.plan).to_json(),
        optimizer=optimizer,
        lr=rate,
        epochs=epochs,
        steps=chosen.steps,
        seed=chosen.seed or 0,
        backend=chosen.backend or "auto",
    )


def _controller(chosen: argparse.Namespace) -> str | None:
    own: str | None = chosen.controller
    if own is None:
        return None if chosen.plan is not None else "NoiseAware"
    if own in LEFT_OUT:
        raise ControllerError(f"{own} has {LEFT_OUT[own]}: make it in Python, precc.{own}(...)")
    begins = own in AROUND and AROUND[own].plan
    if begins and chosen.plan is None:
        raise ControllerError(f"{own} begins with a plan, which it refines: give one, as --plan e4m3/tensor")
    if chosen.plan is not None and not begins:
        raise ControllerError(f"{own} chooses the plan: leave out --plan, or the controller")
    return own


def _tell(chosen: argparse.Namespace, run: TrainingRun, wrote: list[str]) -> None:
    files = ", ".join(str(run.folder / name) for name in wrote)
    how = run.settings.controller or "a fixed plan"
    text = f"{run.step} steps with {how}: {run.told}\nwrote {files}"
    say(chosen, _document(run, wrote), text)


def _document(run: TrainingRun, wrote: list[str]) -> dict[str, Any]:
    return {
        "steps": run.step,
        "epochs": run.epoch,
        "ended": run.ended,
        "loss": run.losses[-1] if run.losses else None,
        "multiply_adds": run.trainer.net.precision_state()["multiply_adds"],
        "wrote": [str(run.folder / name) for name in wrote],
    }


TRAIN = Command(
    "train",
    "train a model while a controller chooses its formats, or in a fixed plan",
    "examples: precc train lenet5 --controller TrustRegion --epochs 2; precc train net.py:factory --plan e4m3/tensor "
    "--optimizer sgd --lr 0.05 --out run; precc train --resume run --epochs 4",
    _add,
    _run,
)
