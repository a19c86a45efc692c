"""Cost models by the names that the command has for them."""

from collections.abc import Mapping

from precc.cost.bit_ops import BitOps
from precc.cost.cost_model import CostModel
from precc.cost.energy import Energy
from precc.cost.memory import Memory
from precc.cost.roofline import Roofline
from precc.errors import PlanError

__all__ = ["COSTS", "cost_named", "names_of_costs"]

#: Those that need nothing else.
COSTS: Mapping[str, CostModel] = {
    "bit-ops": BitOps(),
    "energy": Energy(),
    "memory": Memory(),
    "memory-inference": Memory(training=False),
}

#: What stands before the file, or the name, of the figures of a device.
_ROOFLINE = "roofline:"


def names_of_costs() -> str:
    """For messages."""
    return f"{', '.join(COSTS)} or {_ROOFLINE}FILE"


def cost_named(name: str, *, anywhere: bool = False) -> CostModel:
    """The cost model that a name means.

    Args:
        name: one of `COSTS`, or ``roofline:`` and the file that ``precc calibrate`` wrote, or published figures.
        anywhere: as in `Roofline`.

    Raises:
        PlanError: an unknown name, or a file that holds no figures.

    >>> cost_named("energy").unit, cost_named("roofline:H100-SXM-published").unit
    ('J', 's')
    """
    if name in COSTS:
        return COSTS[name]
    if name.startswith(_ROOFLINE) and name != _ROOFLINE:
        return Roofline(name.removeprefix(_ROOFLINE), anywhere=anywhere)
    raise PlanError(f"unknown cost {name!r}: expected {names_of_costs()}")
