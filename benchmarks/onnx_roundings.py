"""Time of portable roundings in onnxruntime on one thread, of a large and of a small tensor.

Each rounding stands between two `Relu`, so that the runtime may simplify as in a net; the time of the same graph
without it is subtracted. Beside them: a cast to FLOAT8E4M3FN and back. All variants take turns. Writes
benchmarks/results/onnx_roundings.json.

usage: python benchmarks/onnx_roundings.py [--rounds N]
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from environment import environment
from onnx_ir.tape import Tape
from rich.console import Console
from rich.table import Table
from turns import take_turns

from precc.backends.onnx.roundings.node_writer import QUANT_DOMAIN, NodeWriter
from precc.backends.onnx.roundings.portable import add_portable_rounding
from precc.backends.onnx.roundings.quant_functions import portable_functions
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.files import write_whole
from precc.precision import Precision

RESULT = Path(__file__).resolve().parent / "results" / "onnx_roundings.json"
FORMATS = ("e4m3", "e5m2", "float16", "bfloat16", "e2m1", "int8", "mxfp8", "mxfp4", "nvfp4")
OPSETS = (20, 26)
SHAPES = ((256, 1024), (1, 64))
REPEATS = {SHAPES[0]: 1, SHAPES[1]: 100}
NOTHING, CAST = "nothing", "cast to e4m3"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=51)
    rounds = parser.parse_args().rounds
    times = {shape: measured(shape, rounds) for shape in SHAPES}
    large, small = (times[shape] for shape in SHAPES)
    elements = int(np.prod(SHAPES[0]))
    rows = {name: {"ns_per_element": 1e6 * large[name] / elements, "us": 1e3 * small[name]} for name in large}
    content = {**environment(), "onnxruntime": onnxruntime.__version__, "shapes": SHAPES, "rows": rows}
    write_whole(RESULT, (json.dumps(content, indent=1) + "\n").encode())
    table = Table("rounding", "ns an element, 256 x 1024", "us, 1 x 64")
    for name, row in rows.items():
        table.add_row(name, f"{row['ns_per_element']:.2f}", f"{row['us']:.1f}")
    Console().print(table)


def measured(shape: tuple[int, int], rounds: int) -> dict[str, float]:
    """Milliseconds of each rounding, beyond those of the graph without it."""
    steps = {NOTHING: run_of(None, shape, 26), CAST: run_of(CAST, shape, 20)}
    steps |= {f"{fmt}, opset {opset}": run_of(fmt, shape, opset) for fmt in FORMATS for opset in OPSETS}
    medians, _ = take_turns(steps, NOTHING, rounds, warm_up=3, title=f"{shape}")
    return {name: (own - medians[NOTHING]) / REPEATS[shape] for name, own in medians.items() if name != NOTHING}


def run_of(fmt: str | None, shape: tuple[int, int], opset: int) -> Callable[[], None]:
    """Runs a graph with one rounding."""
    tape, x = Tape(), ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    n = NodeWriter(tape, opset, "benchmark")
    value = n.op("Relu", x)
    if fmt == CAST:
        value = n.op("Cast", n.op("Cast", value, dtype="FLOAT8E4M3FN", to=17), dtype="FLOAT", to=1)
    elif fmt is not None:
        value = add_portable_rounding(tape, value, SlotRounding("slot", Precision(fmt), 1, 0), opset)
    imports = {"": opset, QUANT_DOMAIN: 1}
    result, constants = n.op("Relu", value), list(tape.initializers)
    graph = ir.Graph([x], [result], nodes=tape.nodes, initializers=constants, opset_imports=imports, name="one")
    model = ir.to_proto(ir.Model(graph, ir_version=10, functions=portable_functions(tape.nodes, opset)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}

    def run() -> None:
        for _ in range(REPEATS[shape]):
            session.run(None, given)

    return run


if __name__ == "__main__":
    main()
