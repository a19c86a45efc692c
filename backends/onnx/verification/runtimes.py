"""What runs an ONNX model, by name: onnxruntime, and the reference evaluator of onnx."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from precc.backends.onnx.write_model import FITS
from precc.errors import BackendError, expected_one_of
from precc.extras import imported

__all__ = ["EVALUATOR", "RUNTIMES", "Arrays", "EvaluatorError", "Prepare", "Run", "evaluated", "runtimes_named"]

Arrays = dict[str, npt.NDArray[Any]]

#: Runs a model on inputs by name, and gives its outputs by name.
Run = Callable[[Mapping[str, npt.NDArray[Any]]], Arrays]

#: What runs an ``onnx.ModelProto``.
Prepare = Callable[[Any], Run]


def _onnxruntime(model: Any) -> Run:
    runtime = imported("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what it cannot do it raises
    with _loadable(model) as content:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


@contextmanager
def _loadable(model: Any) -> Iterator[bytes | str]:
    """What a file would hold, or the path of a passing one whose tensors lie beside it, where they do not fit one."""
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= FITS:
        yield model.SerializeToString()
        return
    ir = imported("onnx_ir", "onnx")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        ir.save(ir.from_proto(model), path, external_data="tensors")
        yield str(path)


def _reference(model: Any) -> Run:
    evaluator = imported("onnx.reference", "onnx").ReferenceEvaluator(model)
    names = [output.name for output in model.graph.output]

    def run(feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of numpy, where a value overflows or is NaN as it should
            outputs = evaluator.run(names, dict(feeds))
        return {name: np.asarray(value) for name, value in zip(names, outputs, strict=True)}

    return run


#: The name of onnx's own evaluator, which lacks some forms of operators, such as transposed convolutions in groups.
EVALUATOR = "reference"

#: By name.
RUNTIMES: Mapping[str, Prepare] = MappingProxyType({"onnxruntime": _onnxruntime, EVALUATOR: _reference})


class EvaluatorError(BackendError):
    """onnx's evaluator cannot evaluate a model."""


def runtimes_named(runtimes: str | Sequence[str]) -> dict[str, Prepare]:
    """What runs models on each of some runtimes, or on one.

    Raises:
        BackendError: one is unknown, or there is none; the message lists the known ones.
        ExtraError: the package of one is not installed.
    """
    names = (runtimes,) if isinstance(runtimes, str) else runtimes
    if not isinstance(names, Iterable) or not (names := tuple(names)):
        raise BackendError(f"runtimes is {runtimes!r}, which runs nothing: {expected_one_of(RUNTIMES)}, or several")
    for runtime in names:
        if not isinstance(runtime, str) or runtime not in RUNTIMES:
            raise BackendError(f"unknown runtime {runtime!r}: {expected_one_of(RUNTIMES)}")
    if "onnxruntime" in names:
        imported("onnxruntime", "onnx")
    return {name: RUNTIMES[name] for name in names}


def evaluated(model: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """The outputs by name, by the reference evaluator.

    Raises:
        EvaluatorError: it cannot evaluate the model.
    """
    try:
        return _reference(model)(feeds)
    except Exception as error:  # of NumPy, of the evaluator, and of its operators
        raise EvaluatorError(f"onnx.reference cannot evaluate it: {type(error).__name__}: {error}") from error
