"""All that a training needs to go on where it was, in one file that is written whole or not at all."""

import copy
import io
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from precc.errors import DataError
from precc.files import write_whole
from precc.generators import Generators
from precc.module import PrecisionModule, session_of
from precc.precision_state import load_state

__all__ = ["load_checkpoint", "save_checkpoint", "values_of"]

_VERSION = 1
_GENERATORS, _FORMAT = "generators", "precc checkpoint"
_VALUES, _PRECISION = "values", "precision"  # of a compiled net


def save_checkpoint(path: str | Path, **parts: Any) -> None:
    """Write a training to a file: the old one or the new one is there, whenever the process is cut off.

    ``save_checkpoint("run.pt", net=net, optimizer=optimizer, ctl=ctl, step=step)`` takes along the ``precision_state``
    of compiled nets, and the random generators of torch (on the devices of the nets), numpy and python. What has no
    state, such as the position in a loader, is the caller's to keep. For the next process make the same parts in the
    same way, and `load_checkpoint` into them.

    Args:
        path: of the file.
        parts: by name: what has ``state_dict`` and ``load_state_dict``, or plain data: numbers, texts, tensors, lists
            and dictionaries of them.

    Raises:
        DataError: a part cannot be written so that it can be read again; the message names it, the old file stays.
        OSError: the file cannot be written.
    """
    states = {name: _state_of(part) for name, part in parts.items() if _has_state(part)}
    plain = {name: _plain(part) for name, part in parts.items() if not _has_state(part)}
    for name, own in {**states, **plain}.items():
        if not isinstance(parts[name], nn.Module):  # whose values are tensors
            _check_readable(name, own)
    header = {"format": _FORMAT, "version": _VERSION, _GENERATORS: _generators(parts)}
    document = {**header, "states": states, "data": plain}
    write_whole(Path(path), _bytes_of(document))


def load_checkpoint(path: str | Path, *, partial: bool = False, **parts: Any) -> dict[str, Any]:
    """Put what `save_checkpoint` wrote into the same parts, made anew, and the generators where they were.

    Args:
        path: of the file.
        partial: whether states that no part takes are left out, as of a net alone from a training that has ended; the
            generators then stay as they are.
        parts: by name, all that had a state.

    Returns:
        The plain data by name.

    Raises:
        DataError: the file is no checkpoint, is damaged, or is of other parts; nothing is changed.
        PreccError, RuntimeError, ValueError: a part refuses its state; all parts are as before.
        OSError: it cannot be read.
    """
    document = _read(Path(path))
    states, generators = document["states"], document[_GENERATORS]
    _check_parts(str(path), parts, states, document["data"], partial=partial)
    before = {name: copy.deepcopy(_state_of(part)) for name, part in parts.items()}
    present = _generators(parts)
    try:
        for name, part in parts.items():
            _load(part, states[name], exact=False)
        if not partial:
            _restore(generators)
    except BaseException:
        for name, part in parts.items():
            _load(part, before[name], exact=True)
        _restore(present)
        raise
    found: dict[str, Any] = document["data"]
    return found


def values_of(document: Any, where: str) -> Any:
    """The state dict of the one compiled net of a checkpoint that was read; anything else as it is.

    Raises:
        DataError: it is a checkpoint with no compiled net, or with several.
    """
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        return document
    states = document.get("states")
    parts = states.values() if isinstance(states, dict) else ()
    nets = [own[_VALUES] for own in parts if isinstance(own, dict) and set(own) == {_VALUES, _PRECISION}]
    if len(nets) != 1:
        raise DataError(f"the checkpoint {where!r} has {len(nets)} nets that precc compiled, not one")
    return nets[0]


def _check_parts(
    path: str, parts: Mapping[str, Any], states: Mapping[str, Any], data: Mapping[str, Any], *, partial: bool
) -> None:
    """Refuse parts that are not those of the file."""
    stateless = [name for name, part in parts.items() if not _has_state(part)]
    if stateless:
        raise DataError(f"{stateless[0]!r} has no load_state_dict; plain data is what load_checkpoint returns")
    strange = [name for name in parts if name not in states]
    if strange:
        raise DataError(f"{path!r} has no state of {strange[0]!r}; it has states of {', '.join(states) or 'nothing'}")
    missing = [name for name in states if name not in parts]
    if missing and not partial:
        raise DataError(
            f"{path!r} has a state of {missing[0]!r} too: pass {missing[0]}=..., or partial=True to leave it out"
        )


def _has_state(part: Any) -> bool:
    return not isinstance(part, type) and hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def _plain(part: Any) -> Any:
    return part.item() if isinstance(part, np.generic) else part


def _bytes_of(document: Any) -> bytes:
    content = io.BytesIO()
    torch.save(document, content)
    return content.getvalue()


def _check_readable(name: str, own: Any) -> None:
    try:
        torch.load(io.BytesIO(_bytes_of(own)), weights_only=True)
    except Exception as error:  # whatever pickle makes of it
        raise DataError(
            f"{name!r} cannot be saved: {str(error).splitlines()[0]:.200}. It must have a state_dict, or be plain data"
        ) from error


def _state_of(part: Any) -> Any:
    if isinstance(part, PrecisionModule):
        return {_VALUES: part.state_dict(), _PRECISION: part.precision_state()}
    return part.state_dict()


def _load(part: Any, state: Any, *, exact: bool) -> None:
    if isinstance(part, PrecisionModule):
        part.load_state_dict(state[_VALUES])
        load_state(session_of(part), part, state[_PRECISION], exact=exact)
    else:
        part.load_state_dict(state)


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        document = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # whatever torch and pickle make of a damaged file
        raise DataError(f"{str(path)!r} is no checkpoint of torch, or is damaged: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise DataError(f"{str(path)!r} is no checkpoint of precc.save_checkpoint")
    if document.get("version") != _VERSION:
        raise DataError(
            f"{str(path)!r} is a checkpoint of version {document.get('version')}, and this reads {_VERSION}"
        )
    if not {"states", "data", _GENERATORS} <= set(document):
        raise DataError(f"{str(path)!r} is damaged: it lacks states, data or generators")
    return document


def _generators(parts: Mapping[str, Any]) -> dict[str, Any]:
    tensors = [own for part in parts.values() if isinstance(part, nn.Module) for own in part.parameters()]
    found = Generators.of(tensors)
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": found.processor,
        "accelerators": {str(device): state for device, state in found.accelerators.items()},
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "python": random.getstate(),
    }


def _restore(states: Mapping[str, Any]) -> None:
    accelerators = {torch.device(device): state for device, state in states["accelerators"].items()}
    Generators(states["torch"], accelerators).restore()
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    random.setstate(states["python"])
