"""From a net and its inputs to an analysis: trace the step, run the passes, build the records."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.analysis.batch_slice import BatchSlice
from precc.analysis.build_records import build_records
from precc.analysis.calibration import Calibration
from precc.analysis.findings import Findings
from precc.analysis.measurement import StepMeasurement
from precc.analysis.model_loss import LastTangents, implied_loss
from precc.analysis.traced_step import TracedStep, trace_step
from precc.compile_options import CompileOptions
from precc.errors import AnalysisError, PreccError
from precc.formats import Granularity
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.slots import names_update
from precc.warn_caller import warn_caller

__all__ = ["run_analysis"]


def run_analysis(
    net: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    loss: Callable[[Any], Tensor] | None,
    *,
    title: str,
    compiled: CompileOptions,
    options: AnalysisOptions,
    calibration: Calibration,
    tangents: LastTangents,
    plan: PrecisionPlan,
) -> Analysis:
    """The analysis of one step; the net, its buffers and torch's generators stay as they are."""
    _check_arguments(loss, options)
    _check_call(net, args, kwargs, title)
    _check_inference(args, kwargs)
    tangents.asked |= loss is None
    options = replace(options, candidates=(*options.candidates, *_along_axes(plan)))
    started = time.perf_counter()
    batch = BatchSlice.of_inputs(args, kwargs, options.rows)
    known = batch.tangents(tangents.found)
    try:
        step = trace_step(
            net,
            batch.narrowed(args),
            batch.narrowed(dict(kwargs)),
            loss if loss is not None else implied_loss(known),
            title=title,
            pipeline=compiled.tracing,
            fused_attention=compiled.fused_attention,
            regions=compiled.regions,
            results=options.results,
        )
    except PreccError as error:
        if batch.partial and loss is not None:
            error.add_note(f"The loss was called with {batch}: lambda output: loss_fn(output, y[:len(output)]).")
        raise
    _check_loss(step)
    _check_metric(options, step, title)
    with _dtypes_explained(step, title):
        findings = compiled.analyzer(step, options, plan)
    _check_finite(step, findings, title)
    records = build_records(step, findings)
    seconds = time.perf_counter() - started
    norm = findings.sensitivities.gradient_norm
    if not norm:
        why = "zero on these inputs" if step.gradients else "of no parameter (are all frozen, or is the loss detached?)"
        warn_caller(f"the gradient of {title} is {why}: errors relative to it are NaN")
    _tell_jumps(findings, title)
    _tell_unknown(findings, title)
    _tell_nonfinite(findings, title)
    relative = norm if norm else math.nan
    measurement = StepMeasurement(
        step, compiled.measuring, compiled.accumulating, relative, options.metric, findings.sensitivities.loss
    )
    return Analysis(title, records, findings, seconds, batch, calibration, measurement)


@contextmanager
def _dtypes_explained(step: TracedStep, title: str) -> Iterator[None]:
    """Name the input that no parameter can meet, which traces do not notice.

    Raises:
        AnalysisError: there is one, and torch refuses it.
    """
    try:
        yield
    except RuntimeError as error:
        reals = {name: own for name, own in step.inputs.items() if isinstance(own, Tensor) and own.is_floating_point()}
        own = {reals[name].dtype for name in step.parameters}
        strange = [value for name, value in reals.items() if name not in step.constants and value.dtype not in own]
        if "dtype" not in str(error) or len(own) != 1 or not strange:
            raise
        kind, shape = own.pop(), list(strange[0].shape)
        raise AnalysisError(
            f"the parameters of {title} are {kind}, and an input of shape {shape} is {strange[0].dtype}: convert it "
            f"with .to({kind})"
        ) from error


def _check_finite(step: TracedStep, findings: Findings, title: str) -> None:
    """Refuse what is computed from infinities and NaN."""
    found = findings.sensitivities
    if not (math.isfinite(found.loss) and math.isfinite(found.gradient_norm)):
        first = _first_input(step) or findings.nonfinite or "a sum of its gradient"
        raise AnalysisError(f"a step of {title} on these inputs is not finite; first is {first}")


def _first_input(step: TracedStep) -> str:
    """The first parameter, buffer or input that is not finite; empty if all are."""
    for name, value in step.inputs.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            own = step.parameters.get(name)
            kind = "a buffer" if name in step.constants else "an input"
            return f"the parameter {own!r}" if own else f"{kind} of shape {list(value.shape)}"
    return ""


def _check_arguments(loss: Any, options: Any) -> None:
    if not isinstance(options, AnalysisOptions):
        raise AnalysisError(f"options are precc.AnalysisOptions(...), not {options!r:.60}")
    if loss is None:
        return
    if not callable(loss):
        raise AnalysisError(f"loss is a function of the net's output, not {loss!r:.60}")
    try:
        signature(loss.forward if isinstance(loss, nn.Module) else loss).bind(None)
    except TypeError as error:
        raise AnalysisError(
            f"loss is a function of the net's output alone ({error}): loss=lambda output: loss_fn(output, y)"
        ) from None


def _check_call(net: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], title: str) -> None:
    """Refuse what the model's forward does not take: mostly a loss, labels, or options without their names."""
    if net._forward_pre_hooks:
        return  # they may give it something else
    try:
        signature(net.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise AnalysisError(
            f"{title} is not called so ({error}). Inputs are those of the model; loss and options go by name: "
            "net.analyze(x, loss=lambda output: loss_fn(output, y), options=precc.AnalysisOptions(rows=8))"
        ) from None


def _check_inference(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    leaves = _pytree.tree_leaves((args, dict(kwargs)))
    if torch.is_inference_mode_enabled() or any(isinstance(own, Tensor) and own.is_inference() for own in leaves):
        raise AnalysisError("gradients are not recorded in torch.inference_mode, nor of tensors made in it: clone them")


def _along_axes(plan: PrecisionPlan) -> list[Precision]:
    """The precisions of a plan that can be predicted only if they are candidates."""
    ruled = (rule.precision for rule in plan.rules if rule.precision is not None and not rule.decides_updates)
    stored = [plan.default_result] if plan.default_result is not None else []
    named = (own for name, own in plan.slots.items() if not names_update(name))
    every = dict.fromkeys([plan.default, *named, *ruled, *stored])
    usual = (None, Granularity.TENSOR, Granularity.STATIC)
    return [own for own in every if own.granularity not in usual and own.transform is None]


def _tell_jumps(findings: Findings, title: str) -> None:
    if findings.jumps:
        first, others = findings.jumps[0], _others(len(findings.jumps), "jumps")
        warn_caller(f"{title}, {first.where}: {first.problem}; measure plans that round before it{others}")


def _others(count: int, name: str) -> str:
    """Where those are that come behind the first one."""
    return f" (and {count - 1} more: analysis.findings.{name})" if count > 1 else ""


def _tell_unknown(findings: Findings, title: str) -> None:
    telling = [own for own in findings.unknown if own.slots]
    if telling:
        count = len(findings.sensitivities.unknown_slots.every)
        warn_caller(
            f"{title}: predictions leave out what errors of {count} slots do past an operator without a derivative "
            f"(measure plans that round them): {telling[0].where}{_others(len(telling), 'unknown')}"
        )


def _tell_nonfinite(findings: Findings, title: str) -> None:
    slots = (slot for sample in findings.sensitivities.samples for slot in sample.slots)
    infinite = [slot.name for slot in slots if not slot.is_finite]
    if infinite:
        warn_caller(
            f"{title}: derivatives at {len(infinite)} slots, such as {infinite[0]}, are infinite or NaN, and so are "
            "predictions of plans that round them: measure these"
        )


def _check_metric(options: AnalysisOptions, step: TracedStep, title: str) -> None:
    """Refuse weights of parameters that the step has not, or that are of another shape."""
    for name, own in options.metric.items():
        node = step.gradients.get(name)
        if node is None:
            some = ", ".join(list(step.gradients)[:3])
            raise AnalysisError(f"the metric names {name!r}, of which {title} has no gradient; it has {some}, ...")
        if own.shape != node.meta["val"].shape:
            shape = list(node.meta["val"].shape)
            raise AnalysisError(f"the metric of {name!r} has the shape {list(own.shape)}, its gradient {shape}")


def _check_loss(step: TracedStep) -> None:
    """Refuse a loss that is not one real number."""
    value: Tensor = step.loss.meta["val"]
    if value.numel() != 1 or not value.dtype.is_floating_point:
        raise AnalysisError(
            f"the loss is one real number, not a {value.dtype} tensor of shape {list(value.shape)}: reduce it, for "
            "instance with .mean()"
        )
