"""Time of rounding 16 Mi float32 numbers, beside the machine's own copy and what others offer.

All variants take turns, round by round; a ratio is the median of the ratios within a round, to a copy into the same
memory, or, for what allocates its result in a compiled graph, to ``x + 1`` in the same graph. QPyTorch takes part where
it is installed. Writes benchmarks/results/rounding.json.

usage: python benchmarks/rounding.py [--rounds N]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from environment import environment
from rich.console import Console
from rich.progress import track
from rich.table import Table

import precc
from precc.backends import BACKENDS
from precc.files import write_whole
from precc.round_op import ROUND

RESULT = Path(__file__).resolve().parent / "results" / "rounding.json"
ELEMENTS = 1 << 24
COPY, ADD = "copy", "x + 1, compiled"
NEAREST = ("e4m3", "e5m2", "e5m10", "fixed8.4", "bf16", "e3m2")
BLOCKS = ("mxfp8", "mxfp4", "mxint8", "bfp8.32", "bfp8.16", "nvfp4", "dfp8")
#: What a row may take, in copies; of compiled graphs, in additions.
WANTED = {"nearest": 1.1, "stochastic": 1.6, "blocks": 1.3, "graph": 1 / 0.9}

Variant = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    x = torch.randn(ELEMENTS)
    variants = {**written_out(x), **allocating(x)}
    for variant in variants.values():
        variant()
        variant()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in track(range(rounds), "rounds"):
        for name, variant in variants.items():
            start = time.perf_counter()
            variant()
            times[name].append(time.perf_counter() - start)
    rows = {name: row(name, times) for name in variants}
    write_whole(RESULT, (json.dumps({**environment(), "elements": ELEMENTS, "rows": rows}, indent=1) + "\n").encode())
    Console().print(table(rows))


def written_out(x: torch.Tensor) -> dict[str, Variant]:
    """Into memory that is there: our kernels and the copy."""
    out = torch.empty_like(x)
    variants: dict[str, Variant] = {COPY: lambda: out.copy_(x)}
    for name in (*NEAREST, *BLOCKS):
        variants[name] = lambda name=name: precc.round_to(x, name, out=out)  # type: ignore[misc]
    for name in ("e4m3", "mxfp4"):
        variants[f"{name} stochastic"] = lambda name=name: precc.round_to(  # type: ignore[misc]
            x, name, rounding="stochastic", seed=1, out=out
        )
    return variants


def allocating(x: torch.Tensor) -> dict[str, Variant]:
    """With a result of their own: the same in graphs, torch's casts, QPyTorch."""
    variants: dict[str, Variant] = {ADD: graph_of(x, None), "clone": x.clone}
    for name in ("e4m3", "e5m10", "mxfp8", "fixed8.4"):
        variants[f"{name}, compiled"] = graph_of(x, name)
    variants["torch cast e4m3, compiled"] = torch.compile(lambda: x.to(torch.float8_e4m3fn).float())
    variants["torch cast e4m3"] = lambda: x.to(torch.float8_e4m3fn).float()
    variants["torch cast e5m2"] = lambda: x.to(torch.float8_e5m2).float()
    variants["torch cast e5m10"] = lambda: x.half().float()
    try:
        from qtorch.quant import fixed_point_quantize, float_quantize
    except ImportError:
        return variants
    variants["QPyTorch e4m3"] = lambda: float_quantize(x, 4, 3, "nearest")
    variants["QPyTorch e4m3 stochastic"] = lambda: float_quantize(x, 4, 3, "stochastic")
    variants["QPyTorch fixed8.4"] = lambda: fixed_point_quantize(x, 8, 4, rounding="nearest")
    return variants


def graph_of(x: torch.Tensor, name: str | None) -> Variant:
    """``x + 1``, or a rounding, as the one node of a graph that the backend compiles."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx import Graph, GraphModule

    row = precc.Precision.of(name or "float32").row()
    plan = torch.tensor([row.values], dtype=torch.float64)
    graph = Graph()
    inputs = [graph.placeholder("x"), graph.placeholder("plan")]
    if name is None:
        result = graph.call_function(torch.ops.aten.add.Tensor, (inputs[0], 1))
    else:
        result = graph.call_function(ROUND, (*inputs, 0))
    graph.output((result,))
    with FakeTensorMode() as mode:
        examples = [mode.from_tensor(x), mode.from_tensor(plan)]
    module = GraphModule(torch.nn.Module(), graph)
    run = BACKENDS["inductor"].compile(module, examples, visible_outputs=1, backward=False)
    return lambda: run([x, plan])


def row(name: str, times: dict[str, list[float]]) -> dict[str, Any]:
    """Median, and ratio to what it is compared with."""
    compiled = name.endswith("compiled")
    beside = times[ADD if compiled else COPY]
    ratio = statistics.median(own / other for own, other in zip(times[name], beside, strict=True))
    kind = "graph" if compiled else "stochastic" if "stochastic" in name else "blocks" if name in BLOCKS else "nearest"
    ours = name.split(",")[0].removesuffix(" stochastic") in (*NEAREST, *BLOCKS)
    median = statistics.median(times[name])
    return {
        "median_ms": 1e3 * median,
        "elements_per_ns": ELEMENTS / median / 1e9,
        "beside": ADD if compiled else COPY,
        "ratio": ratio,
        "wanted": WANTED[kind] if ours else None,
    }


def table(rows: dict[str, dict[str, Any]]) -> Table:
    made = Table(*("rounding", "ms", "G elements/s", "ratio", "to", "wanted"), title="16 Mi float32 numbers")
    for name, own in rows.items():
        wanted = "" if own["wanted"] is None else f"<= {own['wanted']:.2f}"
        facts = (f"{own['median_ms']:.2f}", f"{own['elements_per_ns']:.2f}", f"{own['ratio']:.2f}")
        made.add_row(name, *facts, own["beside"], wanted)
    return made


if __name__ == "__main__":
    main()
