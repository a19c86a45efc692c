"""The compiled code of a net, or of one region of it: an entry point with a Dynamo cache of its own."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NoReturn
from weakref import ReferenceType, finalize, ref

import torch
from torch import nn
from torch._C._dynamo.eval_frame import reset_code
from torch._C._functorch import peek_interpreter_stack
from torch.fx import GraphModule
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from precc.capture import GraphCompiler
from precc.errors import CaptureError
from precc.frame_capture import FrameCapture
from precc.graph_breaks import GraphBreakWatch
from precc.shallow_clone import base_name, base_of
from precc.strict_dynamo import HAS_ISOLATION, strict_dynamo

__all__ = ["CompiledEntry"]


@dataclass(eq=False, repr=False)
class CompiledEntry:
    """Runs a module through its compiled graphs.

    Args:
        compiler: makes the graphs.
        recurrent: whether each length of the input needs a graph of its own.
        dynamic: whether sizes are symbols from the first call on.
    """

    compiler: GraphCompiler
    recurrent: bool
    dynamic: bool
    _compiled: Callable[..., Any]
    _frames: FrameCapture

    @classmethod
    def of(cls, compiler: GraphCompiler, *, fullgraph: bool, dynamic: bool | None, recurrent: bool) -> "CompiledEntry":
        """An entry point that shares no cache with any other.

        Dynamo caches by code object: nets of one class would replace one another's graphs, and past the limit run in
        plain fp32. So each gets a code object of its own, and, where torch has it, a cache of its own beneath it.
        """
        call = _forward if compiler.region else _call
        code = call.__code__.replace(co_name=f"precc_call_{next(_entry_numbers)}")
        isolation: dict[str, Any] = {"isolate_recompiles": True} if HAS_ISOLATION else {}
        # torch.compile is this, but for the callback, which it does not give away
        context: Any = torch._dynamo.optimize(_Backend(ref(compiler)), nopython=fullgraph, dynamic=dynamic, **isolation)
        frames = FrameCapture(getattr(context, "callback", None), compiler)
        context.callback = frames
        compiled = context(FunctionType(code, globals()))
        finalize(compiled, reset_code, code)  # Dynamo keeps the graphs of code that is gone
        return cls(compiler, recurrent, dynamic is True, compiled, frames)

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """The result, and why and where each capture was interrupted that the call began.

        Args:
            module: the net or its region.
            args: of the call.
            kwargs: of the call.

        Raises:
            CaptureError, RecompileLimitError, DeviceError, BackendError: as `Session.call` says.
        """
        title = base_name(module) + (f" (region {self.compiler.region!r})" if self.compiler.region else "")
        runs = self.compiler.runs
        watch = GraphBreakWatch()
        try:
            allowed: dict[str, Any] = {"undone": self._frames.undone, "counts": not self.dynamic}
            with strict_dynamo(title, module, args, kwargs, recurrent=self.recurrent, **allowed):
                result = self._compiled(module, args, kwargs)
            breaks = watch.found(self._frames.why)
            if self.compiler.runs == runs:
                _refuse(title, breaks)
        except BaseException:  # also Ctrl-C
            self._frames.undo()
            raise
        self._frames.keep()
        return result, breaks


@dataclass(frozen=True, slots=True, eq=False)
class _Backend:
    """A graph compiler as torch.compile takes it, which keeps its backends for the life of the process."""

    compiler: ReferenceType[GraphCompiler]

    def __call__(self, graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        compiler = self.compiler()
        assert compiler is not None, "an entry keeps its compiler"
        return compiler(graph, inputs)


def _refuse(title: str, breaks: list[str]) -> NoReturn:
    """Say why a call ran no graph."""
    modes = [type(mode).__name__ for mode in _get_current_dispatch_mode_stack()]
    if peek_interpreter_stack() is not None:
        modes.append("a transform of torch.func (grad, vmap, jvp)")
    if modes:
        raise CaptureError(
            f"{title} is called inside of {' and '.join(modes)}, where torch.compile captures nothing, so nothing was "
            "rounded: do that with the model that was given to precc.compile, which shares the parameters"
        )
    why = f" (stopped by: {breaks[-1]})" if breaks else ""
    raise CaptureError(
        f"calling {title} ran no captured graph, so nothing was rounded{why}: its forward has no tensor operation that "
        "torch.compile can capture, or breaks off in a loop, or compilation is switched off (TORCHDYNAMO_DISABLE, "
        "torch.compiler.set_stance). fullgraph=True shows what stops the capture; what needs no rounding, as update_bn "
        "of torch.optim.swa_utils, can run with the model that was given to precc.compile, which shares all state"
    )


_entry_numbers = itertools.count()


def _call(net: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return net._call_impl(*args, **kwargs)


def _forward(region: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return base_of(region).forward(region, *args, **kwargs)
