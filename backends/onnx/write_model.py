"""Writing a model, its tensors beside it where they are too large, and its sidecar: whole or not at all."""

import os
import tempfile
from pathlib import Path
from typing import Any

from precc.errors import BackendError
from precc.extras import imported
from precc.files import require_place

__all__ = ["DATA", "FITS", "SIDECAR", "require_writable", "write_model"]

#: What follows the file's name in those of the files beside it.
SIDECAR = ".precc.json"
DATA = ".data"

#: Bytes of tensors that surely fit one protobuf message, of 2 GiB at most, beside nodes and metadata.
FITS = 2**31 - 2**26

#: Tensors of fewer bytes stay in the model's file: a runtime may want to see their values early, as those of shapes.
_SMALL = 1024


def require_writable(path: Path) -> None:
    """Raise OSError where no file can be written, before anything is computed."""
    require_place(path)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def write_model(model: Any, path: Path, sidecar: str | None, *, external_data: bool | None = None) -> None:
    """Replace the file, and those beside it, by a model; none of them is seen half-written.

    Args:
        model: an ``onnx_ir.Model``.
        path: of its file.
        sidecar: content of the sidecar; None: there is none, and one that is there goes.
        external_data: whether tensors go to ``<path>.data``; None: if they do not fit one file.

    Raises:
        BackendError: they do not fit, and external_data is False.
        OSError: the files cannot be written; those that are there are as they were.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if external_data is False and size > FITS:
        raise BackendError(f"tensors of {size / 2**30:.1f} GiB do not fit one ONNX file: leave external_data=False out")
    outside = size > FITS if external_data is None else external_data
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as draft:
        folder = Path(draft)
        data = path.name + DATA if outside else None
        imported("onnx_ir", "onnx").save(model, folder / path.name, external_data=data, size_threshold_bytes=_SMALL)
        if sidecar is not None:
            (folder / (path.name + SIDECAR)).write_text(sidecar, encoding="utf-8")
        for name in (
            path.name + DATA,
            path.name,
            path.name + SIDECAR,
        ):  # readers see the old model until its data is there
            if (folder / name).exists():
                os.replace(folder / name, path.with_name(name))
    if sidecar is None:
        path.with_name(path.name + SIDECAR).unlink(missing_ok=True)  # that of an earlier file
