"""Checkpoints around a net: where `torch.utils.checkpoint` computes a forward again, and under which plan."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils import checkpoint as _checkpoint

from precc.errors import UnsupportedError
from precc.plan import PrecisionPlan

__all__ = ["Checkpoint", "CheckpointPlans", "enclosing_checkpoints"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One call of `torch.utils.checkpoint.checkpoint`.

    Args:
        key: what torch keeps of it from its forward to its backward.
        recomputed: whether a backward computes it again.
    """

    key: Any
    recomputed: bool


def enclosing_checkpoints() -> list[Checkpoint]:
    """The checkpoints that the caller is in, innermost first.

    torch tells code inside of them nothing, so they are read off the call stack.
    """
    checkpoints: list[Checkpoint] = _read_untraced()
    return checkpoints


def _found() -> list[Checkpoint]:
    return list(_checkpoints(sys._getframe(1)))


#: A compiler of the user's, inside of which a net runs, would trace it.
_read_untraced = torch.compiler.disable(_found)


def _checkpoints(frame: FrameType | None) -> Iterator[Checkpoint]:
    while frame is not None:
        if frame.f_code.co_filename == _checkpoint.__file__:
            yield from _checkpoint_of(frame)
        frame = frame.f_back


def _checkpoint_of(frame: FrameType) -> Iterator[Checkpoint]:
    code = frame.f_code
    try:
        if code.co_qualname == "checkpoint":
            generator = frame.f_locals.get("gen")  # None where the forward is reentrant
            if generator is not None:
                yield Checkpoint(generator.gi_frame.f_locals["new_frame"], recomputed=False)
        elif code.co_qualname.endswith("unpack_hook"):
            yield Checkpoint(frame.f_locals["frame"], recomputed=True)
        elif code.co_qualname == "CheckpointFunction.forward":
            yield Checkpoint(frame.f_locals["ctx"], recomputed=False)
        elif code.co_qualname == "CheckpointFunction.backward":
            yield Checkpoint(frame.f_locals["ctx"], recomputed=True)
    except (KeyError, AttributeError) as error:
        raise UnsupportedError(
            f"torch {torch.__version__} keeps its checkpoints in a way that precc does not know, around a net: put the "
            "checkpoint inside the model, where it is captured"
        ) from error


@dataclass(frozen=True, slots=True, eq=False)
class CheckpointPlans:
    """Under which plan a net ran in each checkpoint that still has a backward to come."""

    _plans: "WeakKeyDictionary[Any, list[PrecisionPlan]]" = field(default_factory=WeakKeyDictionary)

    def repeated(self, checkpoints: list[Checkpoint]) -> PrecisionPlan | None:
        """The plan of the forward that a call inside of these repeats; None if it repeats none.

        Raises:
            UnsupportedError: the forward of a checkpoint cannot be told, or had several plans.
        """
        own = next((own for own in checkpoints if own.recomputed), None)
        return None if own is None else self._only(own)

    def note(self, checkpoints: list[Checkpoint], plan: PrecisionPlan) -> None:
        """A call inside of these has run under a plan."""
        for own in checkpoints:
            plans = self._plans.setdefault(own.key, [])
            if plan not in plans:
                plans.append(plan)

    def _only(self, checkpoint: Checkpoint) -> PrecisionPlan:
        plans = self._plans.get(checkpoint.key, [])
        if len(plans) != 1:
            why = "changed inside of it" if plans else "cannot be told, for the net was not called in its forward"
            raise UnsupportedError(
                f"torch.utils.checkpoint computes the forward of a net again, whose plan {why}: set the plan before "
                "the checkpoint, or put the checkpoint inside the model, where it is captured"
            )
        return plans[0]
