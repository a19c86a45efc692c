"""The life of one net: its plan, its graphs, and each of its calls."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from types import FunctionType
from typing import Any
from weakref import ref

import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed, FailOnRecompileLimitHit, Unsupported
from torch._dynamo.utils import counters
from torch.utils import _pytree

from precc.capture import GraphCompiler
from precc.captured_graph import CapturedGraph, evaluate
from precc.errors import CaptureError, DeviceError, PlanError, PreccError, RecompileLimitError
from precc.pipeline import Pipeline
from precc.plan import PrecisionPlan
from precc.protocols import Backend
from precc.slots import CallNumbers

__all__ = ["CompileOptions", "Session"]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """How a net is compiled; everything that a copy of the net needs to be compiled alike."""

    pipeline: Pipeline
    naming: Pipeline
    backend: Backend
    fullgraph: bool = False
    dynamic: bool | None = None


@dataclass(eq=False, repr=False)
class Session:
    """What a net keeps beside its parameters.

    Args:
        options: how it is compiled.
        plan: the plan of the next forward.
        full_precision: the plan that rounds nothing, in the model's own dtype.
        graphs: those captured so far.
        graph_breaks: why the capture was interrupted.
        events: what controllers counted.
    """

    options: CompileOptions
    plan: PrecisionPlan
    full_precision: PrecisionPlan
    graphs: list[CapturedGraph] = field(default_factory=list)
    graph_breaks: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    _compiler: GraphCompiler = field(init=False)
    _entry: Any = field(init=False)

    def __post_init__(self) -> None:
        self._compiler = GraphCompiler(self.options.pipeline, self.options.backend, self._on_capture)
        self._entry = _isolated_compile(self._compiler, self.options)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or unpickled net has the plan and compiles its own graphs."""
        return Session, (self.options, self.plan, self.full_precision)

    @property
    def tally(self) -> Counter[str]:
        """Multiply-adds executed so far, by format."""
        return self._compiler.tally

    @property
    def numbers(self) -> CallNumbers:
        return self._compiler.numbers

    @property
    def multiply_adds(self) -> dict[str, int]:
        """Multiply-adds of the product that each known slot feeds, at the sizes of its capture."""
        work: dict[str, int] = {}
        for graph in self.graphs:
            for product in graph.products:
                for operand in product.operands:
                    work.setdefault(operand.slot.name, evaluate(product.multiply_adds, {}))
        return work

    def use(self, plan: PrecisionPlan) -> None:
        """Set the plan of the next forward.

        Raises:
            PlanError: the plan names a slot that no captured graph has; the old plan stays.
        """
        if plan is self.plan:
            return
        self._check_slots(plan, self.graphs)
        self.plan = plan
        for graph in self.graphs:
            graph.use(plan)

    def _check_slots(self, plan: PrecisionPlan, graphs: list[CapturedGraph]) -> None:
        if not any(graph.training for graph in graphs):
            return  # an inference graph has a subset of the slots: nothing can be said yet
        known = {slot.name for graph in graphs for slot in graph.slots}
        unknown = sorted(set(plan.slots) - known)
        if unknown:
            some = ", ".join(repr(name) for name in unknown[:3])
            has = ", ".join(sorted(known)[:6]) or "none"
            raise PlanError(
                f"the plan names {len(unknown)} slot(s) that the net does not have: {some}; its slots are {has}"
                + (", ..." if len(known) > 6 else "")
            )

    def _on_capture(self, graph: CapturedGraph) -> None:
        self._check_slots(self.plan, [*self.graphs, graph])
        self.graphs.append(graph)
        graph.use(self.plan)

    def call(self, net: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the net's forward through its compiled graphs.

        Raises:
            CaptureError: no graph could be captured from it.
            RecompileLimitError: it needs one more graph than torch._dynamo allows.
            DeviceError: its tensors are on several devices.
            BackendError: the backend failed on the graph.
        """
        compiler = self._compiler
        runs, compiler.root = compiler.runs, ref(net)
        breaks = counters["graph_break"]
        known_breaks = len(breaks)
        with _strict_dynamo(net, args, kwargs):
            result = self._entry(net, args, kwargs)
        if len(breaks) > known_breaks:
            self.graph_breaks += list(breaks)[known_breaks:]
        if compiler.runs == runs:
            raise CaptureError(
                f"calling {type(net).__name__} ran no captured graph, so nothing was rounded: its forward has no "
                "tensor operation that torch.compile can capture, or compilation is switched off "
                "(TORCHDYNAMO_DISABLE, torch.compiler.set_stance); fullgraph=True shows what stops the capture"
            )
        return result


_entry_numbers = itertools.count()


def _call(net: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return net._call_impl(*args, **kwargs)


def _isolated_compile(compiler: GraphCompiler, options: CompileOptions) -> Any:
    """A compiled entry point that shares no cache with any other net.

    Dynamo caches by code object: nets of one class would replace one another's graphs, and past the limit run in
    plain fp32. So each net gets a code object of its own, and, where torch has it, a cache of its own beneath it.
    """
    code = _call.__code__.replace(co_name=f"precc_call_{next(_entry_numbers)}")
    entry = FunctionType(code, globals())
    isolation: dict[str, Any] = {"isolate_recompiles": True} if _HAS_ISOLATION else {}
    return torch.compile(
        entry,
        backend=compiler,
        fullgraph=options.fullgraph,
        dynamic=options.dynamic,
        **isolation,
    )


_HAS_ISOLATION = "isolate_recompiles" in signature(torch.compile).parameters


@contextmanager
def _strict_dynamo(net: nn.Module, args: Any, kwargs: Any) -> Iterator[None]:
    """Make what Dynamo would do in silence an error, and its errors ours."""
    strict = torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, suppress_errors=False)
    name = type(net).__name__
    try:
        with strict:
            yield
    except FailOnRecompileLimitHit as error:
        raise RecompileLimitError(
            f"{name} needs more than torch._dynamo.config.recompile_limit = "
            f"{torch._dynamo.config.recompile_limit} graphs. Pass dynamic=True to precc.compile if its input "
            "sizes vary, or raise the limit; TORCH_LOGS=recompiles tells what changes. Its graphs keep working"
        ) from error
    except BackendCompilerFailed as error:
        inner = error.inner_exception
        if isinstance(inner, PreccError):
            raise inner from error
        raise CaptureError(f"{name} cannot be captured: {type(inner).__name__}: {inner}") from error
    except Unsupported as error:
        raise CaptureError(f"{name} cannot be captured: {error}") from error
    except PreccError:
        raise
    except Exception as error:
        _explain_devices(net, args, kwargs, error)
        raise


def _explain_devices(net: nn.Module, args: Any, kwargs: Any, error: Exception) -> None:
    homes = {parameter.device for parameter in net.parameters()}
    inputs = [leaf for leaf in _pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, torch.Tensor)]
    away = next((leaf for leaf in inputs if leaf.dim() and leaf.device not in homes), None)
    if len(homes) == 1 and away is not None:
        home = homes.pop()
        raise DeviceError(
            f"{type(net).__name__} is on {home}, but an input of shape {list(away.shape)} is on {away.device}: "
            f"move it with .to({str(home)!r})"
        ) from error
