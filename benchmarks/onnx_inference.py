"""What roundings cost an exported net in onnxruntime: inference beside the float32 model. Some minutes.

LeNet-5 and ResNet-20, every operand of every product rounded, in onnxruntime on one thread. The float32 model is
torch.onnx's own export of the model, optimised, which onnxruntime then optimises as it does the others. Runs alternate;
times are medians, ratios are medians of the ratios of neighbouring runs. The portable flavor at opset 26, where
roundings read bits, and at 21, where they compute powers of two; the qdq flavor where it has the format; file sizes.

Writes benchmarks/results/onnx_inference.json. usage: python benchmarks/onnx_inference.py [--quick]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from environment import environment
from rich.progress import track
from torch import Tensor, nn

import precc
from precc.files import write_whole
from precc.models.lenet5 import LeNet5
from precc.models.resnet20 import ResNet20

RESULT = Path(__file__).resolve().parent / "results" / "onnx_inference.json"
MODELS = {"LeNet-5": (LeNet5, (1, 28, 28)), "ResNet-20": (ResNet20, (3, 32, 32))}
FORMATS = ("float8_e4m3fn", "bfloat16", "float16", "int8", "float6_e2m3fn", "float4_e2m1fn", "mxfp8_e4m3", "nvfp4")
BATCHES = (1, 16, 128)
WRITTEN = (("portable", 26), ("portable", 21), ("qdq", None))


def session(path: Path) -> Any:
    """On one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def plain(model: nn.Module, x: Tensor, path: Path) -> Path:
    """The float32 model, as torch exports it."""
    shapes = {"dynamic_shapes": ({0: "batch"},), "external_data": False}
    torch.onnx.export(model.eval(), (x,), path, dynamo=True, verbose=False, **shapes)
    return path


def seconds(own: Any, x: Tensor, runs: int) -> float:
    """Of one run, the mean of so many."""
    feed = {own.get_inputs()[0].name: x.numpy()}
    start = time.perf_counter()
    for _ in range(runs):
        own.run(None, feed)
    return (time.perf_counter() - start) / runs


def compared(rounded: Any, float32: Any, x: Tensor, repetitions: int) -> dict[str, float]:
    """Alternating; in each repetition as many runs as take 20 ms."""
    runs = max(1, int(0.02 / min(seconds(float32, x, 3) for _ in range(3))))
    pairs = [(seconds(rounded, x, runs), seconds(float32, x, runs)) for _ in range(repetitions)]
    return {
        "milliseconds": 1e3 * statistics.median(own for own, _ in pairs),
        "float32_milliseconds": 1e3 * statistics.median(other for _, other in pairs),
        "ratio": statistics.median(own / other for own, other in pairs),
    }


def measured(name: str, repetitions: int, folder: Path) -> list[dict[str, Any]]:
    """The rows of one model: of all formats, flavors and batches."""
    factory, shape = MODELS[name]
    torch.manual_seed(0)
    model, x = factory(), torch.randn(max(BATCHES), *shape)
    float32 = plain(model, x[:2], folder / "float32.onnx")
    rows = []
    for fmt in track(FORMATS, name):
        net = precc.compile(model, policy=fmt, backend="reference")
        for flavor, opset in WRITTEN:
            path = folder / "rounded.onnx"
            row = {"model": name, "format": fmt, "flavor": flavor, "opset": opset}
            options = {"opset": opset, "dynamic_shapes": "batch", "sidecar": False}
            precc.export_onnx(net, (x[:2],), path, flavor=flavor, **options)
            try:
                own, other = session(path), session(float32)
            except Exception as error:  # what a runtime lacks is part of the table
                rows.append({**row, "missing": f"{type(error).__name__}: {error}"[:200]})
                continue
            sizes = {"bytes": path.stat().st_size, "float32_bytes": float32.stat().st_size}
            rows += [
                {**row, "batch": batch, **sizes, **compared(own, other, x[:batch], repetitions)} for batch in BATCHES
            ]
    return rows


def main() -> None:
    """Measure all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions, nothing written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in MODELS for row in measured(name, 5 if quick else 21, Path(folder))]
    for row in rows:
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    if not quick:
        document = {**environment(), "onnxruntime": onnxruntime.__version__, "rows": rows}
        write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
