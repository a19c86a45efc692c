"""How long our passes take, beside PyTorch's capture of the same graph: Llamas of 12, 24 and 48 layers.

The seconds of one compilation by the reference backend, forward and backward: of the passes on the joint graph, of
the partition, of making the plan's rows, and of PyTorch's capture, which is the rest without the step itself. Each size
takes its turn in every round; medians. Writes benchmarks/results/compile_time.json.

usage: python benchmarks/compile_time.py [--rounds N]
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers as hf
from environment import environment
from rich.progress import track
from torch.fx import GraphModule

import precc
from precc import capture, pipeline
from precc.captured_graph import CapturedGraph
from precc.files import write_whole
from precc.protocols import GraphContext

LAYERS = (12, 24, 48)
RESULT = Path(__file__).resolve().parent / "results" / "compile_time.json"


def llama(layers: int) -> torch.nn.Module:
    """Of small width: the work of a compiler does not depend on it."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "vocab_size": 96}
    return hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, num_hidden_layers=layers, num_key_value_heads=2))


@contextmanager
def stopwatches() -> Iterator[Counter[str]]:
    """Seconds in each pass and in each part of ours, by name, and joint nodes."""
    seconds: Counter[str] = Counter()

    def timed(name: str, function: Any) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                seconds[name] += time.perf_counter() - start

        return run

    def run(self: pipeline.Pipeline, graph: GraphModule, context: GraphContext) -> None:
        if not self.passes:
            return
        seconds["nodes"] += len(graph.graph.nodes)
        start = time.perf_counter()
        pipeline_run(self, graph, context)
        seconds["passes"] += time.perf_counter() - start

    pipeline_run = pipeline.Pipeline.run
    partition = timed("partition", capture.min_cut_rematerialization_partition)
    rows = timed("rows", CapturedGraph.use)
    with (
        patch.object(pipeline.Pipeline, "run", run),
        patch.object(capture, "min_cut_rematerialization_partition", partition),
        patch.object(CapturedGraph, "use", rows),
    ):
        yield seconds


def measure(layers: int) -> dict[str, float]:
    """Seconds of one compilation by the reference backend, forward and backward."""
    tokens = torch.randint(3, 96, (2, 16), generator=torch.Generator().manual_seed(0))
    net = precc.compile(llama(layers), backend="reference")
    with stopwatches() as seconds:
        start = time.perf_counter()
        net(input_ids=tokens, labels=tokens).loss.backward()
        total = time.perf_counter() - start
    start = time.perf_counter()
    net(input_ids=tokens, labels=tokens).loss.backward()
    step = time.perf_counter() - start
    parts = {name: seconds[name] for name in ("passes", "partition", "rows")}
    torch_capture = total - step - sum(parts.values())
    return {"layers": layers, "joint_nodes": seconds["nodes"], **parts, "torch_capture": torch_capture, "step": step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    measure(1)  # imports and first calls
    found = [[measure(layers) for layers in LAYERS] for _ in track(range(rounds), "llama")]
    columns = [list(column) for column in zip(*found, strict=True)]
    rows = [{name: statistics.median(own[name] for own in column) for name in column[0]} for column in columns]
    for row in rows:
        row["passes_over_capture"] = row["passes"] / row["torch_capture"]
    document = {**environment(), "setting": {"rounds": rounds, "backend": "reference"}, "llama": rows}
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
