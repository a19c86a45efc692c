"""Plans that policies make know nothing of updates: those of the plan before go on."""

from dataclasses import replace

from precc.plan import PrecisionPlan
from precc.slots import names_update

__all__ = ["with_updates_of"]


def with_updates_of(plan: PrecisionPlan, other: PrecisionPlan) -> PrecisionPlan:
    """A plan with the updates and the loss scaling of another one; itself if it has them.

    >>> before = PrecisionPlan("fp32", default_update={"master": "bf16"}, loss_scaling=8)
    >>> print(with_updates_of(PrecisionPlan("e4m3"), before))
    plan: float8_e4m3fn in every slot, updates in master bfloat16, the loss scaled by 8
    """
    slots = {name: own for name, own in plan.slots.items() if not names_update(name)}
    slots |= {name: own for name, own in other.slots.items() if names_update(name)}
    rules = tuple(rule for rule in other.rules if rule.decides_updates)
    found = replace(
        plan,
        slots=slots,
        rules=(*rules, *(rule for rule in plan.rules if not rule.decides_updates)),
        default_update=other.default_update,
        loss_scaling=other.loss_scaling,
    )
    return plan if found == plan else found
