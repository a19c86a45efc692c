"""Fused kernels by Inductor between the products, whose operands our own kernels round.

Lowering runs after the partition, so the slots are those of every other backend. Random ops fall back on
torch's own generator, so that masks are those of the reference backend.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch._guards import detect_fake_mode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from precc.backends.cpp.backend import PRODUCTS_COMPILED, ROUND_COMPILED
from precc.backends.cpp.build import load_library
from precc.backends.eager import implement
from precc.errors import BackendError
from precc.protocols import BoxedCallable

__all__ = ["Inductor", "compile_lowered"]

#: Masks from torch's generator; roundings of float16 and bfloat16 tensors must not be optimised away.
_CONFIG = {"fallback_random": True, "emulate_precision_casts": True}


@dataclass(frozen=True, slots=True)
class Inductor:
    """``torch._inductor``: C++ on a processor, Triton on a GPU."""

    name: ClassVar[str] = "inductor"

    def check(self) -> None:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise BackendError(
                "backend 'inductor' needs a C++ compiler: install g++ or clang, set CXX, or use backend='reference'"
            ) from error
        load_library()

    def compile(
        self, graph: GraphModule, inputs: Sequence[Any], *, visible_outputs: int, backward: bool
    ) -> BoxedCallable:
        implement(graph, ROUND_COMPILED, PRODUCTS_COMPILED)
        return compile_lowered(graph, inputs, visible_outputs=visible_outputs, backward=backward)


def compile_lowered(
    graph: GraphModule,
    inputs: Sequence[Any],
    *,
    visible_outputs: int,
    backward: bool,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> BoxedCallable:
    """A callable by Inductor, of a graph in which operators stand in the place of precc's, as `Backend.compile`.

    `options` are of Inductor's own.
    """
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner

    with config.patch({**_CONFIG, **options}), _quoted_torch_library_path():
        lowered = _lower(graph, inputs)
        lowered.graph.output_node().meta["user_visible_output_idxs"] = list(range(visible_outputs))
        compiled: BoxedCallable = compile_fx_inner(lowered, inputs, is_backward=backward)
    return compiled


def _lower(graph: GraphModule, inputs: Sequence[Any]) -> GraphModule:
    """The graph on Inductor's op set."""
    from torch._inductor.decomposition import select_decomp_table

    # decompositions give other strides than the ops that the graph was traced with, which a view may not fit
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default
    graph.recompile()
    table = select_decomp_table()
    fake_mode = detect_fake_mode(inputs)
    with fake_mode or nullcontext():
        lowered: GraphModule = make_fx(graph, decomposition_table=table, _allow_non_fake_inputs=True)(*inputs)
    return lowered


@contextmanager
def _quoted_torch_library_path() -> Iterator[None]:
    """Inductor hands this path to a shell unquoted: a space in it would break the link step."""
    from torch.utils import cpp_extension

    path = cpp_extension.TORCH_LIB_PATH
    cpp_extension.TORCH_LIB_PATH = shlex.quote(path)
    try:
        yield
    finally:
        cpp_extension.TORCH_LIB_PATH = path
