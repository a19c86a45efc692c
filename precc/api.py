"""The front door: it joins core, passes, backends and models; `precc.by_hand` beside it calls kernels alone."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from precc.backends import eager_backend, fastest_counting, fastest_rounding, find_backend
from precc.backends.onnx.export import export_onnx
from precc.backends.onnx.load_plan import load_plan
from precc.backends.onnx.model_explorer import model_explorer_data, save_model_explorer_data
from precc.backends.onnx.verification.verify import verify_onnx
from precc.compile_options import CompileOptions
from precc.errors import CaptureError, PlanError, expected_one_of
from precc.formats import Format
from precc.module import PrecisionModule, read_plan, wrap
from precc.passes import (
    accumulating_pipeline,
    analysis_pipeline,
    fusing_pipeline,
    naming_pipeline,
    rounding_pipeline,
)
from precc.passes.analyse import analyse
from precc.passes.pack_saved import PackSaved
from precc.pipeline import Pipeline
from precc.plan import PrecisionPlan
from precc.policy import Policy, assigned, parse_policy
from precc.protocols import Backend
from precc.regions import PrecisionRegion, find_regions, is_uninitialized, matrices_outside
from precc.rule import Rule, parse_rules
from precc.rule_checks import check_paths
from precc.session import Session
from precc.warn_caller import warn_caller

__all__ = ["compile", "export_onnx", "load_plan", "model_explorer_data", "save_model_explorer_data", "verify_onnx"]

_ATTENTION = ("products", "fused")


def compile(
    model: nn.Module,
    *,
    policy: Policy | Format | str | None = None,
    plan: PrecisionPlan | str | Path | None = None,
    rules: Sequence[Rule] = (),
    regions: str | Sequence[str] | None = None,
    live: bool = True,
    attention: str = "products",
    backend: Backend | str = "auto",
    fullgraph: bool = False,
    dynamic: bool | None = None,
) -> PrecisionModule:
    """A net that computes as the model does, with the operands of each product in the formats of a plan.

    The net shares the model's parameters, buffers and submodules, under the same names; the model itself is
    unchanged. Graphs are captured at the first call. Without policy and plan nothing is rounded until a
    controller or `net.set_plan` acts.

    Args:
        model: any module that torch.compile can capture.
        policy: makes the first plan; a format or its name means `Uniform`.
        plan: the first plan, or the path of its JSON file.
        rules: what holds whatever a policy, a plan or a controller chooses; the first `Rule` that fits a slot decides
            it. One that decides no slot is an error, of this call if its path fits no module, or else of the first
            forward that records gradients.
        regions: a glob on module paths, or several: compiles each of these modules by itself, under the one plan, and
            leaves the code around them as it is, unrounded. ``"layers.*"`` means the children of ``layers``: unlike a
            rule's, this ``*`` does not cross dots. Matrices in no region are named by a `PrecisionWarning`. Slots have
            the names that they have in the whole net. A module with several paths is one region, by the first of them;
            one that is called twice in a forward has the same slots in both calls.
        live: whether another plan can be used at any time. If not, graphs have only those slots in which the first
            plan rounds, and where it rounds nothing no node of precc; `net.set_plan` with recompile=True builds others,
            and controllers that change plans refuse the net.
        attention: what `torch.nn.functional.scaled_dot_product_attention` is. ``"products"``: two products, whose
            operands, sums and gradients have slots. ``"fused"``: one op, ``<module>/attention``, by the kernel that
            torch chooses, with the slots ``fprop.query``, ``fprop.key``, ``fprop.value`` and ``dgrad.grad_output``; its
            backward reads the rounded query, key and value, and its sums are those of the kernel.
        backend: ``"inductor"``, ``"cpp"``, ``"reference"``, or ``"auto"``: the first of these that can run on this
            machine; a `PrecisionWarning` and the report say if that is not the first. ``"triton"``: generated kernels,
            on a GPU or by Triton's interpreter; `net.kernels()` shows them. Or an object such as
            `precc.backends.triton.backend.Triton`, whose fields are its options.
        fullgraph: make graph breaks errors; otherwise the report names them.
        dynamic: as in torch.compile: whether sizes are symbols.

    Raises:
        CaptureError: not a module, without a forward, already compiled, or with an attribute by one of the net's
            names; or the regions name no module, the model itself, one inside another, or a module that has no forward.
        FormatError, PlanError: the policy or the plan is not one, or there are both, or a rule fits no module, or live
            is not True or False, or `attention` is neither.
        BackendError: unknown backend, or one that cannot run on this machine.
    """
    _check_model(model)
    if type(live) is not bool:
        raise PlanError(f"live is True or False, not {live!r}")
    if attention not in _ATTENTION:
        raise PlanError(f"attention={attention!r}: {expected_one_of(_ATTENTION)}")
    if policy is not None and plan is not None:
        raise PlanError("pass a policy or a plan, not both")
    first = None
    if plan is not None:
        first = read_plan(plan)
    elif policy is not None:
        first = assigned(parse_policy(policy))
    own = parse_rules(rules)
    check_paths(own, model)
    check_paths(first.rules if first is not None else (), model)
    paths = find_regions(model, regions)
    if not paths and type(model).forward is nn.Module.forward and "forward" not in model.__dict__:
        raise CaptureError(f"a {type(model).__name__} has no forward to capture: compile its modules, or name regions")
    chosen, lacking = find_backend(backend)
    options = CompileOptions(
        pipeline=rounding_pipeline(),
        accumulating=accumulating_pipeline(),
        fusing=fusing_pipeline() if chosen.name == "triton" else Pipeline(()),
        saving=(PackSaved(),) if chosen.name == "triton" else (),
        naming=naming_pipeline(),
        backend=chosen,
        tracing=analysis_pipeline(),
        measuring=eager_backend(),
        analyzer=partial(analyse, counting=fastest_counting()),
        lacking=lacking,
        fullgraph=fullgraph,
        dynamic=dynamic,
        live=live,
        fused_attention=attention == "fused",
        recurrent=any(isinstance(module, nn.RNNBase) for module in model.modules()),
        regions=paths,
        rounding=fastest_rounding(),
    )
    _tell_outside(model, paths)
    return wrap(model, Session(options, first, rules=own))


def _tell_outside(model: nn.Module, regions: tuple[str, ...]) -> None:
    outside = matrices_outside(model, regions) if regions else []
    if outside:
        warn_caller(
            f"{type(model).__name__} has matrices in no region, so no product of them is rounded: {', '.join(outside)}"
        )


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise CaptureError(f"precc.compile takes an nn.Module, not {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError("a ScriptModule has no Python forward to capture: pass the module that it was made from")
    if hasattr(model, "_orig_mod"):
        raise CaptureError("the model went through torch.compile already: pass the module that was given to it")
    if is_uninitialized(model):
        raise CaptureError(f"{type(model).__name__} has no parameters before its first call: call the model once")
    for path, module in model.named_modules():
        if isinstance(module, (PrecisionModule, PrecisionRegion)):
            where = f"its submodule {path!r}" if path else "it"
            raise CaptureError(f"{where} is a compiled net already: compile the whole model once")
    own_call = type(model).__call__ is not nn.Module.__call__
    if own_call and not isinstance(model, torch.fx.GraphModule):  # that one only words its errors
        raise CaptureError(
            f"{type(model).__name__} has a __call__ of its own, which a compiled net would not run: move it to forward"
        )
