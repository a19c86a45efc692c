"""Writing a model, its tensors beside it where they are too large, and its sidecar: whole or not at all."""

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from precc.backends.onnx.drafts import draft_beside, sweep_drafts
from precc.errors import BackendError
from precc.extras import imported
from precc.files import behind_links, require_place

__all__ = ["FITS", "SIDECAR", "require_writable", "write_model"]

#: What follows the file's name in that of the file beside it.
SIDECAR = ".precc.json"

#: Bytes of tensors that surely fit one protobuf message, of 2 GiB at most, beside nodes and metadata.
FITS = 2**31 - 2**26

#: Tensors of fewer bytes stay in the model's file: a runtime may want to see their values early, as those of shapes.
_SMALL = 1024

#: So much longer than the file's name are those beside it, the ones that are there for a while too.
_LONGER = 40


def require_writable(path: Path) -> None:
    """Raise OSError where no file can be written, or the one beside it, before anything is computed."""
    require_place(path)
    place = _place(path)
    require_place(_sidecar(place))
    if len(os.fsencode(place.name)) + _LONGER > os.pathconf(place.parent, "PC_NAME_MAX"):
        raise OSError(errno.ENAMETOOLONG, "the name is too long for those of the files beside it", str(path))
    with tempfile.TemporaryFile(dir=place.parent):
        pass


def write_model(model: Any, path: Path, sidecar: str | None, *, external_data: bool | None = None) -> None:
    """Replace the file, and those beside it, by a model; a reader sees the old model or the new one.

    Its tensors have a file of a new name, which the model names; that of the model that was there goes at last.

    Args:
        model: an ``onnx_ir.Model``.
        path: of its file; behind a link the one that it leads to.
        sidecar: content of the sidecar; None: there is none, and one that is there goes.
        external_data: whether tensors go to ``<path>.<8 digits>.data``; None: if they do not fit one file.

    Raises:
        BackendError: they do not fit, and external_data is False.
        OSError: the files cannot be written; those that are there are as they were.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if external_data is False and size > FITS:
        raise BackendError(f"tensors of {size / 2**30:.1f} GiB do not fit one ONNX file: leave external_data=False out")
    outside = size > FITS if external_data is None else external_data
    require_writable(path)
    place = _place(path)
    if outside and place.parent != path.parent.resolve():
        raise OSError(f"{str(path)!r} leads to another folder, where tensors beside the file are not found: name that")
    data = f"{place.name}.{secrets.token_hex(4)}.data" if outside else ""
    with draft_beside(place, data) as draft:
        imported("onnx_ir", "onnx").save(
            model, draft / place.name, external_data=data or None, size_threshold_bytes=_SMALL
        )
        if sidecar is not None:
            _sidecar(draft / place.name).write_text(sidecar, encoding="utf-8")
        before = _data_of(place)
        _put(draft, place, data)
    for name in before - {data}:
        place.with_name(name).unlink(missing_ok=True)
    with suppress(OSError):
        sweep_drafts(place, kept={data})


def _place(path: Path) -> Path:
    return behind_links(path)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + SIDECAR)


def _put(draft: Path, place: Path, data: str) -> None:
    """Move what was made to its place: tensors, so that readers see the old model until they are there; the rest."""
    new, old = draft / place.name, draft / "before"
    with _undone_by() as undo:
        if data and (draft / data).stat().st_size:  # else no tensor is large, and the model names none
            undo.append(lambda: place.with_name(data).unlink(missing_ok=True))
            os.replace(draft / data, place.with_name(data))
        if place.exists():
            _keep(place, old)
        undo.append(lambda: os.replace(old, place) if old.exists() else place.unlink(missing_ok=True))
        os.replace(new, place)
        if _sidecar(new).exists():
            os.replace(_sidecar(new), _sidecar(place))
        else:
            _sidecar(place).unlink(missing_ok=True)  # that of an earlier file


def _keep(place: Path, copy: Path) -> None:
    try:
        os.link(place, copy)
    except OSError:  # a file system without links, or a file of somebody else
        shutil.copyfile(place, copy)


@contextmanager
def _undone_by() -> Iterator[list[Callable[[], Any]]]:
    """What was done is undone, the last first, where something fails."""
    steps: list[Callable[[], Any]] = []
    try:
        yield steps
    except BaseException:
        for step in reversed(steps):
            step()
        raise


def _data_of(place: Path) -> set[str]:
    """Names of the files, ours by their names, in which a model that is there has tensors."""
    ours = re.compile(rf"{re.escape(place.name)}(\.[0-9a-f]{{8}})?\.data")
    found = {own.name for own in place.parent.iterdir() if ours.fullmatch(own.name)}
    if not found or not place.exists():
        return set()
    onnx = imported("onnx", "onnx")
    try:
        tensors = onnx.load(str(place), load_external_data=False).graph.initializer
    except Exception:  # it is no model: then it names none
        return set()
    named = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return found & named
