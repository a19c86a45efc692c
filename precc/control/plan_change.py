"""Two plans, product by product: which is finer where, and how much changes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.slots import Slot

__all__ = ["agreement", "changed_share", "finer", "towards"]

#: A product: its op and role.
_Product = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Products:
    """The operands of each product that a plan names, with its work."""

    slots: Mapping[_Product, Mapping[str, Precision]]
    work: Mapping[_Product, int]

    @classmethod
    def of(cls, plan: PrecisionPlan, work: Mapping[str, int]) -> "_Products":
        slots: dict[_Product, dict[str, Precision]] = {}
        weights: dict[_Product, int] = {}
        for name, multiply_adds in work.items():
            slot = Slot.parse(name)
            key = (slot.op, slot.role.value)
            slots.setdefault(key, {})[name] = plan.precision(name)
            weights[key] = multiply_adds
        return cls(slots, weights)

    def bits(self, product: _Product) -> float:
        """Mean of the operands."""
        own = self.slots[product].values()
        return sum(precision.bits for precision in own) / len(own)

    @property
    def total(self) -> int:
        return sum(self.work.values())


def finer(first: PrecisionPlan, second: PrecisionPlan) -> PrecisionPlan:
    """The second plan, with the operands of the first in each product that has more bits there.

    Args:
        first: an earlier one.
        second: with ``multiply_adds`` of its slots.
    """
    own, other = (_Products.of(plan, second.multiply_adds) for plan in (first, second))
    kept = [product for product in other.work if own.bits(product) > other.bits(product)]
    return _with_products(second, {product: own.slots[product] for product in kept})


def towards(present: PrecisionPlan, wanted: PrecisionPlan, share: float) -> PrecisionPlan:
    """The wanted plan, with no more than this share of the multiply-adds coarser than in the present one.

    All products that become finer do; of those that become coarser, the ones that save most bits of an operand come
    first. A product larger than the share may change alone.
    """
    old, new = (_Products.of(plan, wanted.multiply_adds) for plan in (present, wanted))
    coarser = [own for own in new.work if new.bits(own) < old.bits(own)]
    left = share * new.total
    kept = []
    for product in sorted(coarser, key=lambda own: (new.bits(own) - old.bits(own)) * new.work[own]):
        if new.work[product] <= left or left == share * new.total:
            left -= new.work[product]
        else:
            kept.append(product)
    return _with_products(wanted, {product: old.slots[product] for product in kept})


def agreement(first: PrecisionPlan, second: PrecisionPlan) -> float:
    """Mean over the multiply-adds of the difference in bits of an operand, without sign."""
    own, other = (_Products.of(plan, second.multiply_adds) for plan in (first, second))
    apart = sum(work * abs(own.bits(product) - other.bits(product)) for product, work in other.work.items())
    return apart / other.total if other.total else 0.0


def changed_share(present: PrecisionPlan, wanted: PrecisionPlan) -> float:
    """Share of the multiply-adds in products that have another precision."""
    old, new = (_Products.of(plan, wanted.multiply_adds) for plan in (present, wanted))
    changed = sum(work for product, work in new.work.items() if old.slots[product] != new.slots[product])
    return changed / new.total if new.total else 0.0


def _with_products(plan: PrecisionPlan, products: Mapping[_Product, Mapping[str, Precision]]) -> PrecisionPlan:
    if not products:
        return plan
    own = {name: precision for slots in products.values() for name, precision in slots.items()}
    provenance = replace(plan.provenance, predicted_error=None, cost=None)  # those of another plan
    return replace(plan, slots={**plan.slots, **own}, provenance=provenance)
