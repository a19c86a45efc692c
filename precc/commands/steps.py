"""One training step of a task, for commands: run, analysed, and under which plan."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.api import compile, load_plan
from precc.commands.arguments import add_file
from precc.commands.factories import EXAMPLE
from precc.commands.output import note
from precc.commands.users_errors import of_users, one_line
from precc.control.snapshot import Snapshot
from precc.errors import AnalysisError, CaptureError, FormatError, NoLossError, PlanError, UnsupportedError
from precc.module import PrecisionModule, original
from precc.plan import PrecisionPlan
from precc.policy import Uniform
from precc.shallow_clone import base_name
from precc.slots import names_update
from precc.task import Batch, Task

__all__ = [
    "PLAN_HELP",
    "add_plan",
    "analysed",
    "analysed_if_it_can_be",
    "checked",
    "compiled",
    "forward",
    "learn",
    "loss_of",
    "plan_of",
    "tried",
    "with_loss",
]

PLAN_HELP = "a plan's JSON file, an exported file, or a format, as e4m3 or e4m3/tensor"


def add_plan(parser: argparse.ArgumentParser, default: str) -> None:
    """The argument ``--plan``; ``--policy``, as `precc.compile` has it for formats, is the same."""
    add_file(parser, "--plan", "--policy", metavar="PLAN", help=f"{PLAN_HELP} (default: {default})")


def plan_of(text: str) -> PrecisionPlan:
    """The plan that an argument means: one format in every slot, perhaps scaled, or what a file holds.

    Raises:
        PlanError: neither.

    >>> print(plan_of("e4m3/tensor"))
    plan by Uniform('float8_e4m3fn', scaling='tensor'): float8_e4m3fn/tensor in every slot
    """
    name, _, scaling = text.partition("/")
    try:
        return Uniform(name, scaling=scaling or None).assign()
    except FormatError as error:
        try:
            return load_plan(text)
        except PlanError as other:
            raise PlanError(f"{text!r} is neither a format ({error}) nor a plan ({other})") from other


def tried(task: Task) -> Any:
    """The model's output on its example, by torch alone: errors are said before anything is compiled.

    Generators and buffers stay as they are.

    Raises:
        CaptureError: the model fails; in one line.
    """
    model = original(task.module) if isinstance(task.module, PrecisionModule) else task.module
    before = Snapshot.of(model)
    with torch.no_grad(), of_users(f"the forward of {type(model).__name__}"):
        output = model(*task.inputs, **task.named_inputs)
    before.restore(model)
    return output


def checked(task: Task) -> Task:
    """A task whose model and loss run on its example.

    Raises:
        CaptureError: they do not, or there is no loss; in one line.
    """
    output = tried(task)
    with torch.no_grad(), of_users("the loss"):
        task.loss_of(output, task.targets)
    return task


def with_loss(task: Task) -> Task:
    """The same, with a loss in any case: where neither task nor model has one, the mean square of what comes out.

    Stderr then says so.

    Raises:
        CaptureError: model or loss fail; in one line.
    """
    if task.loss is not None:
        return checked(task)
    try:
        task.loss_of(tried(task))
    except NoLossError:
        note(
            f"no loss is given, so that errors are of the mean square of the output of {type(task.module).__name__}; "
            f"a factory gives one so: {EXAMPLE}"
        )
        return replace(task, loss=_mean_square)
    return task


def _mean_square(output: Any, *targets: Any) -> Tensor:
    leaves = (own for own in _pytree.tree_leaves(output) if isinstance(own, Tensor) and own.dtype.is_floating_point)
    terms = [own.square().mean() for own in leaves]
    if not terms:
        raise CaptureError("the model's output has no real numbers, of which a gradient could be")
    return torch.stack(terms).sum()


def compiled(task: Task, plan: PrecisionPlan | None, backend: str = "reference") -> PrecisionModule:
    """The net of a task, under a plan if there is one; a net that is compiled already stays what it is."""
    if not isinstance(task.module, PrecisionModule):
        return compile(task.module, plan=plan, backend=backend)
    if plan is not None:
        task.module.set_plan(plan, recompile=True)
    return task.module


def learn(task: Task, batch: Batch | None = None) -> Tensor:
    """Forward and backward of a batch, default the example, without a step of an optimizer; the loss.

    Raises:
        CaptureError: the forward or the loss fails; in one line.
    """
    own = task.example if batch is None else batch
    task.module.zero_grad()
    loss = loss_of(task, forward(task, own), own)
    with of_users("the backward"):
        loss.backward()
    return loss.detach()


def forward(task: Task, batch: Batch) -> Any:
    """The output of a batch.

    Raises:
        CaptureError: the model fails; in one line.
    """
    net = task.module
    with of_users(f"the forward of {base_name(net) if isinstance(net, PrecisionModule) else type(net).__name__}"):
        return net(*batch.inputs, **batch.named_inputs)


def loss_of(task: Task, output: Any, batch: Batch) -> Tensor:
    """The loss of an output of a batch.

    Raises:
        CaptureError: it fails, is not one number, or has no gradient.
    """
    with of_users("the loss"):
        loss = task.loss_of(output, batch.targets)
    if not loss.requires_grad:
        raise CaptureError("the loss has no gradient: no parameter of the model that requires one is in it")
    return loss


def analysed(task: Task, net: PrecisionModule, plans: Sequence[PrecisionPlan] = ()) -> Analysis:
    """The analysis of the example's step, so that these plans can be predicted.

    Raises:
        AnalysisError, CaptureError: it cannot be analysed, or the loss fails.
    """
    named = [own for plan in plans for name, own in plan.slots.items() if not names_update(name)]
    options = AnalysisOptions(
        sums=64 if any(plan.rounds_sums for plan in plans) else 0,
        candidates=tuple(dict.fromkeys([*(plan.default for plan in plans), *named])),
        results=any(plan.rounds_results for plan in plans),
    )
    own = None if task.loss is None else lambda output: task.loss_of(output, task.targets)
    return net.analyze(*task.inputs, loss=own, options=options, **task.named_inputs)


def analysed_if_it_can_be(
    task: Task, net: PrecisionModule, plans: Sequence[PrecisionPlan]
) -> tuple[Analysis | None, str]:
    """The same; or None, and why in a sentence, which stderr says too."""
    try:
        return analysed(task, net, plans), ""
    except (AnalysisError, CaptureError, UnsupportedError) as error:
        why = f"the step cannot be analysed: {one_line(error)}"
        note(why)
        return None, why
