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
from precc.module import PrecisionModule

__all__ = ["load_checkpoint", "save_checkpoint"]

_VERSION = 1
_GENERATORS, _FORMAT = "generators", "precc checkpoint"
_VALUES, _PRECISION = "values", "precision"  # of a compiled net


def save_checkpoint(path: str | Path, **parts: Any) -> None:
    """Write a training to a file: the old one or the new one is there, whenever it is cut off.

    ``save_checkpoint("run.pt", net=net, optimizer=optimizer, ctl=ctl, step=step)`` takes along the ``precision_state``
    of compiled nets, and the random generators of torch (on the devices of the nets), numpy and python. What has no
    state, such as the position in a loader, is the caller's to keep.

    Args:
        path: of the file.
        parts: by name: what has a ``state_dict``, or plain data.

    Raises:
        OSError: the file cannot be written.
    """
    states = {name: _state_of(part) for name, part in parts.items()}
    document = {"format": _FORMAT, "version": _VERSION, "parts": states, _GENERATORS: _generators(parts)}
    content = io.BytesIO()
    torch.save(document, content)
    write_whole(Path(path), content.getvalue())


def load_checkpoint(path: str | Path, **parts: Any) -> dict[str, Any]:
    """Put what `save_checkpoint` wrote into the same parts, made anew, and the generators where they were.

    Args:
        path: of the file.
        parts: by name, all that have a ``state_dict``.

    Returns:
        The plain data by name.

    Raises:
        DataError: the file is no checkpoint, is damaged, or is of other parts; nothing is changed.
        PreccError, RuntimeError, ValueError: a part refuses its state; all parts are as before.
        OSError: it cannot be read.
    """
    states, generators = _read(Path(path))
    own = {name: part for name, part in parts.items() if hasattr(part, "load_state_dict")}
    strange = sorted(set(own) - set(states)) + sorted(set(parts) - set(own))
    if strange:
        raise DataError(f"{str(path)!r} has no state of {strange[0]!r}; it has {', '.join(states)}")
    missing = [name for name, state in states.items() if isinstance(state, Mapping) and name not in own]
    if missing:
        raise DataError(
            f"{str(path)!r} has a state of {missing[0]!r}, which is to be loaded too: pass {missing[0]}=..."
        )
    before = {name: copy.deepcopy(_state_of(part)) for name, part in own.items()}
    try:
        for name, part in own.items():
            _load(part, states[name])
    except BaseException:
        for name, part in own.items():
            _load(part, before[name])
        raise
    _restore(generators)
    return {name: state for name, state in states.items() if name not in own}


def _state_of(part: Any) -> Any:
    if isinstance(part, PrecisionModule):
        return {_VALUES: part.state_dict(), _PRECISION: part.precision_state()}
    return part.state_dict() if hasattr(part, "state_dict") else part


def _load(part: Any, state: Any) -> None:
    if isinstance(part, PrecisionModule):
        part.load_state_dict(state[_VALUES])
        part.load_precision_state(state[_PRECISION])
    else:
        part.load_state_dict(state)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    content = path.read_bytes()
    try:
        document = torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # whatever torch and pickle make of a damaged file
        raise DataError(f"{str(path)!r} is no checkpoint of torch, or is damaged: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise DataError(f"{str(path)!r} is no checkpoint of precc.save_checkpoint")
    if document["version"] != _VERSION:
        raise DataError(f"{str(path)!r} is a checkpoint of version {document['version']}, and this reads {_VERSION}")
    return document["parts"], document[_GENERATORS]


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
