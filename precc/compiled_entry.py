"""The compiled code of a net, or of one region of it: an entry point with a Dynamo cache of its own."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import nn

from precc.capture import GraphCompiler
from precc.errors import CaptureError
from precc.graph_breaks import GraphBreakWatch
from precc.shallow_clone import base_name, base_of
from precc.strict_dynamo import HAS_ISOLATION, strict_dynamo

__all__ = ["CompiledEntry"]


@dataclass(frozen=True, eq=False, repr=False)
class CompiledEntry:
    """Runs a module through its compiled graphs.

    Args:
        compiler: makes the graphs.
        compiled: takes the module, its arguments and its keyword arguments.
        recurrent: whether each length of the input needs a graph of its own.
    """

    compiler: GraphCompiler
    compiled: Callable[..., Any]
    recurrent: bool

    @classmethod
    def of(cls, compiler: GraphCompiler, *, fullgraph: bool, dynamic: bool | None, recurrent: bool) -> "CompiledEntry":
        """An entry point that shares no cache with any other.

        Dynamo caches by code object: nets of one class would replace one another's graphs, and past the limit run in
        plain fp32. So each gets a code object of its own, and, where torch has it, a cache of its own beneath it.
        """
        call = _forward if compiler.region else _call
        code = call.__code__.replace(co_name=f"precc_call_{next(_entry_numbers)}")
        isolation: dict[str, Any] = {"isolate_recompiles": True} if HAS_ISOLATION else {}
        entry = FunctionType(code, globals())
        options: dict[str, Any] = {"fullgraph": fullgraph, "dynamic": dynamic, **isolation}
        return cls(compiler, torch.compile(entry, backend=compiler, **options), recurrent)

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
        with strict_dynamo(title, module, args, kwargs, recurrent=self.recurrent):
            result = self.compiled(module, args, kwargs)
        breaks = watch.found()
        if self.compiler.runs == runs:
            why = f" (stopped by: {breaks[-1]})" if breaks else ""
            raise CaptureError(
                f"calling {title} ran no captured graph, so nothing was rounded{why}: its forward has no "
                "tensor operation that torch.compile can capture, or breaks off in a loop, or compilation is switched "
                "off (TORCHDYNAMO_DISABLE, torch.compiler.set_stance); fullgraph=True shows what stops the capture"
            )
        return result, breaks


_entry_numbers = itertools.count()


def _call(net: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return net._call_impl(*args, **kwargs)


def _forward(region: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return base_of(region).forward(region, *args, **kwargs)
