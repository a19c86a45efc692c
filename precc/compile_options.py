"""How a net is compiled."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from precc.analysis.findings import Analyzer
from precc.pipeline import Pipeline
from precc.protocols import Backend, HalvesPass
from precc.rounding import Row, quantize

__all__ = ["CompileOptions"]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """How a net is compiled; everything that a copy of the net needs to be compiled alike.

    `saving` is what both halves go through after the partition, `accumulating` and `fusing` what each does then.
    `tracing` places the slots of an analysed step, `measuring` is the backend that runs it, `analyzer` its passes.
    `regions` are the paths of the modules that are compiled one by one; empty if the net is compiled as a whole.
    `fused_attention` is whether attention is one op with slots of its own, or its products.
    `live` is whether graphs have slots for any plan, or only those that the net's one plan rounds in.
    `lacking` says what a faster backend would need on this machine; empty if there is none. `recurrent`: the model has
    recurrent layers, which are opened step by step, so that each length of the input needs a graph of its own.
    `rounding` computes what `precc.rounding.quantize` does, of tensors outside of graphs.
    """

    pipeline: Pipeline
    accumulating: Pipeline
    fusing: Pipeline
    saving: tuple[HalvesPass, ...]
    naming: Pipeline
    backend: Backend
    tracing: Pipeline
    measuring: Backend
    analyzer: Analyzer
    fullgraph: bool = False
    dynamic: bool | None = None
    live: bool = True
    fused_attention: bool = False
    lacking: str = ""
    recurrent: bool = False
    regions: tuple[str, ...] = ()
    rounding: Callable[[Tensor, Row, int], Tensor] = quantize
