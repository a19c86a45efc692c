"""Checkpointed regions around a net: where `torch.utils.checkpoint` computes a forward again, and under which plan."""

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

__all__ = ["Region", "RegionPlans", "enclosing_regions"]


@dataclass(frozen=True, slots=True)
class Region:
    """One call of `torch.utils.checkpoint.checkpoint`.

    Args:
        key: what torch keeps of it from its forward to its backward.
        recomputed: whether a backward computes it again.
    """

    key: Any
    recomputed: bool


def enclosing_regions() -> list[Region]:
    """The checkpointed regions that the caller is in, innermost first.

    torch tells code inside of them nothing, so they are read off the call stack.
    """
    regions: list[Region] = _read_untraced()
    return regions


def _found() -> list[Region]:
    return list(_regions(sys._getframe(1)))


#: A compiler of the user's, inside of which a net runs, would trace it.
_read_untraced = torch.compiler.disable(_found)


def _regions(frame: FrameType | None) -> Iterator[Region]:
    while frame is not None:
        code = frame.f_code
        if code.co_filename == _checkpoint.__file__:
            if code.co_qualname == "checkpoint":
                generator = frame.f_locals.get("gen")  # None where the forward is reentrant
                if generator is not None:
                    yield Region(generator.gi_frame.f_locals["new_frame"], recomputed=False)
            elif code.co_qualname.endswith("unpack_hook"):
                yield Region(frame.f_locals["frame"], recomputed=True)
            elif code.co_qualname == "CheckpointFunction.forward":
                yield Region(frame.f_locals["ctx"], recomputed=False)
            elif code.co_qualname == "CheckpointFunction.backward":
                yield Region(frame.f_locals["ctx"], recomputed=True)
        frame = frame.f_back


@dataclass(frozen=True, slots=True, eq=False)
class RegionPlans:
    """Under which plan a net ran in each checkpointed region that still has a backward to come."""

    _plans: "WeakKeyDictionary[Any, list[PrecisionPlan]]" = field(default_factory=WeakKeyDictionary)

    def plan_of(self, regions: list[Region], current: PrecisionPlan) -> PrecisionPlan:
        """The plan of a call inside of these regions: that of the forward that it repeats, else the one in force.

        Raises:
            UnsupportedError: the forward of the region cannot be told, or had several plans.
        """
        repeated = next((region for region in regions if region.recomputed), None)
        plan = current if repeated is None else self._only(repeated)
        for region in regions:
            own = self._plans.setdefault(region.key, [])
            if plan not in own:
                own.append(plan)
        return plan

    def _only(self, region: Region) -> PrecisionPlan:
        plans = self._plans.get(region.key, [])
        if len(plans) != 1:
            why = "changed inside of it" if plans else "cannot be told, for the net was not called in its forward"
            raise UnsupportedError(
                f"torch.utils.checkpoint computes a region around a net again, whose plan {why}: set the plan before "
                "the region, or put the checkpoint inside the model, where it is captured"
            )
        return plans[0]
