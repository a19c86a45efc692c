"""What runs an ONNX model, by name: onnxruntime, and the reference evaluator of onnx."""

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from precc.errors import BackendError, expected_one_of
from precc.extras import imported

__all__ = ["RUNTIMES", "Arrays", "Run", "run_by"]

Arrays = dict[str, npt.NDArray[Any]]

#: Runs a model (``onnx.ModelProto``) on inputs by name, and gives its outputs by name.
Run = Callable[[Any, Mapping[str, npt.NDArray[Any]]], Arrays]


def _onnxruntime(model: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    runtime = imported("onnxruntime", "test")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what it cannot do it raises
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _reference(model: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    evaluator = imported("onnx.reference", "onnx").ReferenceEvaluator(model)
    names = [output.name for output in model.graph.output]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of numpy, where a value overflows or is NaN as it should
        outputs = evaluator.run(names, dict(feeds))
    return {name: np.asarray(value) for name, value in zip(names, outputs, strict=True)}


#: By name.
RUNTIMES: Mapping[str, Run] = MappingProxyType({"onnxruntime": _onnxruntime, "reference": _reference})


def run_by(runtime: str) -> Run:
    """What runs a model on a runtime.

    Raises:
        BackendError: it is unknown; the message lists the known ones.
        ExtraError: its package is not installed.
    """
    if runtime not in RUNTIMES:
        raise BackendError(f"unknown runtime {runtime!r}: {expected_one_of(RUNTIMES)}")
    if runtime == "onnxruntime":
        imported("onnxruntime", "test")
    return RUNTIMES[runtime]
