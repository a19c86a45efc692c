"""The compiled code of a net, or of one region of it: an entry point with a Dynamo cache of its own."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from types import FunctionType
from typing import Any
from weakref import ref

import torch
from torch import nn
from torch._dynamo.utils import counters

from precc.capture import GraphCompiler
from precc.errors import CaptureError
from precc.shallow_clone import base_name, base_of
from precc.strict_dynamo import strict_dynamo

__all__ = ["HAS_ISOLATION", "CompiledEntry"]


@dataclass(frozen=True, eq=False, repr=False)
class CompiledEntry:
    """Runs a module through its compiled graphs.

    Args:
        compiler: makes the graphs.
        compiled: takes the module, its arguments and its keyword arguments.
    """

    compiler: GraphCompiler
    compiled: Callable[..., Any]

    @classmethod
    def of(cls, compiler: GraphCompiler, *, fullgraph: bool, dynamic: bool | None) -> "CompiledEntry":
        """An entry point that shares no cache with any other.

        Dynamo caches by code object: nets of one class would replace one another's graphs, and past the limit run in
        plain fp32. So each gets a code object of its own, and, where torch has it, a cache of its own beneath it.
        """
        call = _forward if compiler.region else _call
        code = call.__code__.replace(co_name=f"precc_call_{next(_entry_numbers)}")
        isolation: dict[str, Any] = {"isolate_recompiles": True} if HAS_ISOLATION else {}
        entry = FunctionType(code, globals())
        return cls(compiler, torch.compile(entry, backend=compiler, fullgraph=fullgraph, dynamic=dynamic, **isolation))

    def call(
        self, net: nn.Module, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, list[str]]:
        """The result, and the first line of why each interruption of a capture that the call began.

        Args:
            net: whose module paths name the slots.
            module: the net or its region.
            args: of the call.
            kwargs: of the call.

        Raises:
            CaptureError, RecompileLimitError, DeviceError, BackendError: as `Session.call` says.
        """
        title = base_name(module) + (f" (region {self.compiler.region!r})" if self.compiler.region else "")
        runs, self.compiler.root = self.compiler.runs, ref(net)
        known_breaks = Counter(counters["graph_break"])
        with strict_dynamo(title, module, args, kwargs):
            result = self.compiled(module, args, kwargs)
        breaks = [_first_line(why) for why in (Counter(counters["graph_break"]) - known_breaks).elements()]
        if self.compiler.runs == runs:
            why = f" (stopped by: {breaks[-1]})" if breaks else ""
            raise CaptureError(
                f"calling {title} ran no captured graph, so nothing was rounded{why}: its forward has no "
                "tensor operation that torch.compile can capture, or compilation is switched off "
                "(TORCHDYNAMO_DISABLE, torch.compiler.set_stance); fullgraph=True shows what stops the capture"
            )
        return result, breaks


_entry_numbers = itertools.count()


def _call(net: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return net._call_impl(*args, **kwargs)


def _forward(region: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return base_of(region).forward(region, *args, **kwargs)


#: Whether torch.compile keeps a cache apart for each entry, also for the code that follows a graph break.
HAS_ISOLATION = "isolate_recompiles" in signature(torch.compile).parameters


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
