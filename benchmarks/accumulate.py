"""Time of a 512 x 512 x 512 product with emulated accumulators, against torch's float32 product beside it.

Operands are float32 tensors that hold float8_e4m3fn values. Alternates all variants round by round and reports medians
and their ratio to the product in float32. Writes benchmarks/results/accumulate.json.

usage: python benchmarks/accumulate.py [--rounds N]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from environment import environment
from torch import Tensor

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import ACCUMULATORS
from precc.backends.cpp.accumulate import accumulate
from precc.files import write_whole

RESULT = Path(__file__).resolve().parent / "results" / "accumulate.json"
SIZE = 512
#: In milliseconds, on two cores.
TARGETS = {"e5m10 fused": 9.0, "e5m10 multiply, add": 16.0, "e5m10 stochastic": 40.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    products = variants()
    for product in products.values():  # compile, warm up
        product()
    times: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(rounds):
        for name, product in products.items():
            start = time.perf_counter()
            product()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(own) for name, own in times.items()}
    document = {
        **environment(),
        "setting": {"rows": SIZE, "depth": SIZE, "columns": SIZE, "operands": "float8_e4m3fn", "rounds": rounds},
        "median_ms": {name: 1e3 * value for name, value in medians.items()},
        "least_ms": {name: 1e3 * min(own) for name, own in times.items()},
        "target_ms": TARGETS,
        "ratio_to_float32": {name: value / medians["torch float32"] for name, value in medians.items()},
    }
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    print(json.dumps(document, indent=1))


def variants() -> dict[str, Callable[[], Tensor]]:
    """The product with each accumulator."""
    torch.manual_seed(0)
    a, b = (torch.randn(SIZE, SIZE).to(torch.float8_e4m3fn).float() for _ in range(2))
    accumulators = {
        "e5m10 fused": Accumulator(format="e5m10"),
        "e5m10 multiply, add": Accumulator(format="e5m10", product="e5m10"),
        "e5m10 stochastic": Accumulator(format="e5m10", rounding="stochastic"),
        "e5m10 blocks of 64": Accumulator(format="e5m10", order="blocked", block=64),
        "bfloat16 fused": Accumulator(format="bf16"),
        "float32 fused": Accumulator(format="float32"),
        "fixed31.12 fused": Accumulator(format="fixed31.12"),
        "e5m10 toward zero": Accumulator(format="e5m10", rounding="toward_zero"),
        "hopper_fp8": ACCUMULATORS["hopper_fp8"],
        "hopper_fp8_promoted": ACCUMULATORS["hopper_fp8_promoted"],
    }
    return {"torch float32": lambda: a @ b} | {
        name: lambda accumulator=accumulator: accumulate(a, b, accumulator, 1)  # type: ignore[misc]
        for name, accumulator in accumulators.items()
    }


if __name__ == "__main__":
    main()
