"""Slots: the places where a value is rounded, and their names.

A name is ``<module path>/<op family>[#k]/<role>.<operand>``, for instance ``conv2/product/fprop.weight``;
k counts the calls of that family in the module, from 0, and 0 is not written. Names depend on
the model alone: they are the same in train, eval, no_grad, with dynamic shapes, in every backend and in the export.

Those of the optimizer's step are ``<path of the parameter>/update.<what>``: ``conv2/weight/update.master``, where the
name of the parameter in its module stands in the place of the family.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from torch import nn

from precc.errors import PlanError, expected_one_of

__all__ = [
    "ACCUMULATOR",
    "ADDITION",
    "ATTENTION",
    "RESULT",
    "UPDATES",
    "CallNumbers",
    "Role",
    "Slot",
    "aliases_of",
    "bound_aliases_of",
    "names_result",
    "names_update",
    "update_slot",
    "update_slots",
]

#: What stands in a slot's name for the operand where the slot is the product's running sum.
ACCUMULATOR = "accumulator"

#: Likewise where the slot is the result that an op stores.
RESULT = "result"

#: What has slots in the optimizer's step, in the order in which it is rounded: the buffer that gradients are added up
#: in, the states of the optimizer, what is added to the parameter, and the parameter.
UPDATES = ("gradient", "momentum", "step", "master")

#: The op family of sums of two activations, as of a residual stream.
ADDITION = "add"

#: The op family of fused attention; that of matrix products and convolutions is ``product``.
ATTENTION = "attention"

#: From a module to the one that its forward is bound to, where the forward is an attribute of its own.
_BOUND = "forward.__self__"


class Role(Enum):
    """Which of a layer's products a node is, or the step of the optimizer."""

    FPROP = "fprop"  #: the forward product
    DGRAD = "dgrad"  #: gradient with respect to the activation
    WGRAD = "wgrad"  #: gradient with respect to the weight
    DGRAD_A = "dgrad_a"  #: of a product of two activations: gradient with respect to the first
    DGRAD_B = "dgrad_b"  #: and to the second
    UPDATE = "update"  #: the optimizer's step


@dataclass(frozen=True, slots=True)
class Slot:
    """One operand of one product, its running sum, or its result; the result of a sum of two activations; an update.

    >>> Slot.parse("layers.0/product#1/dgrad_a.b")
    Slot(layer='layers.0', family='product', call=1, role=<Role.DGRAD_A: 'dgrad_a'>, operand='b')
    """

    layer: str
    family: str
    call: int
    role: Role
    operand: str

    @property
    def op(self) -> str:
        """The op that the slot belongs to, such as ``conv2/product``."""
        call = f"#{self.call}" if self.call else ""
        prefix = f"{self.layer}/" if self.layer else ""
        return f"{prefix}{self.family}{call}"

    @property
    def accumulator(self) -> "Slot":
        """The slot of the running sum of the same product."""
        return replace(self, operand=ACCUMULATOR)

    @property
    def result(self) -> "Slot":
        """The slot of what the same op stores."""
        return replace(self, operand=RESULT)

    @property
    def results(self) -> "tuple[Slot, ...]":
        """That slot alone; none for fused attention, which stores what its kernel likes, and for updates."""
        return () if self.family == ATTENTION or self.is_update else (self.result,)

    @property
    def is_result(self) -> bool:
        """Whether it is one."""
        return self.operand == RESULT

    @property
    def accumulators(self) -> "tuple[Slot, ...]":
        """That slot alone; none for fused attention, which sums as its kernel does, and for updates."""
        return () if self.family == ATTENTION or self.is_update else (self.accumulator,)

    @property
    def is_update(self) -> bool:
        """Whether it is of the optimizer's step."""
        return self.role is Role.UPDATE

    @property
    def name(self) -> str:
        """The whole name."""
        return f"{self.op}/{self.role.value}.{self.operand}"

    @classmethod
    def parse(cls, name: str) -> "Slot":
        """The slot that a name means.

        Raises:
            PlanError: the name is not of the form above.
        """
        path, _, leaf = name.rpartition("/")
        layer, _, numbered = path.rpartition("/")
        family, _, call = numbered.partition("#")
        role, _, operand = leaf.partition(".")
        if not (family and operand and (not call or call.isdecimal())):
            way = "" if "/" in name else f"; for all slots of a module: precc.Rule({name!r}, ...)"
            raise PlanError(f"slot name {name!r} is not '<module>/<op family>[#k]/<role>.<operand>'{way}")
        if role not in {choice.value for choice in Role}:
            valid = expected_one_of(choice.value for choice in Role)
            raise PlanError(f"slot name {name!r} has the role {role!r}: {valid}")
        if role == Role.UPDATE.value and operand not in UPDATES:
            raise PlanError(f"slot name {name!r} has the update {operand!r}: {expected_one_of(UPDATES)}")
        return cls(layer, family, int(call or 0), Role(role), operand)


def names_result(slot: str) -> bool:
    """Whether the slot of this name is that of a result."""
    return slot.endswith(f".{RESULT}")


def names_update(slot: str) -> bool:
    """Whether the slot of this name is one of the optimizer's step."""
    return slot.rpartition("/")[2].startswith(f"{Role.UPDATE.value}.")


def update_slot(parameter: str, what: str) -> str:
    """The name of a slot of the update of a parameter, by its path.

    >>> update_slot("blocks.0.fc.weight", "master")
    'blocks.0.fc/weight/update.master'
    """
    layer, _, own = parameter.rpartition(".")
    return Slot(layer, own, 0, Role.UPDATE, what).name


def update_slots(net: nn.Module) -> set[str]:
    """The names of all slots of updates of a net's parameters, those that are frozen now too."""
    return {update_slot(name, what) for name, _ in net.named_parameters() for what in UPDATES}


def aliases_of(net: nn.Module) -> dict[str, str]:
    """The first path of each module that a net holds under several names, by its other paths."""
    first = {id(module): path for path, module in net.named_modules()}
    every = net.named_modules(remove_duplicate=False)
    return {path: first[id(module)] for path, module in every if path != first[id(module)]}


def bound_aliases_of(net: nn.Module) -> dict[str, str]:
    """The first path of each module that captured code reaches through a forward bound to a module, by that path.

    A tool that puts a method in the place of a module's forward leaves it so, as the mixed precision of accelerate.
    """
    first = {id(module): path for path, module in net.named_modules()}
    found: dict[str, str] = {}
    for path, module in net.named_modules():
        owner = getattr(module.__dict__.get("forward"), "__self__", None)
        if isinstance(owner, nn.Module):
            known = {**first, id(owner): first.get(id(owner), path)}
            start = f"{path}.{_BOUND}" if path else _BOUND
            every = owner.named_modules(remove_duplicate=False)
            found |= {f"{start}.{own}" if own else start: known[id(sub)] for own, sub in every if id(sub) in known}
    return found


@dataclass(slots=True)
class CallNumbers:
    """Numbers the calls of an op family within a module, for one net.

    A graph break splits a module over several frames: each frame numbers on where those seen before
    it stopped, and a frame that is compiled again gets the numbers that it had.
    """

    _counts: dict[Hashable, dict[tuple[str, str], int]] = field(default_factory=dict)
    _bases: dict[Hashable, dict[tuple[str, str], int]] = field(default_factory=dict)

    def number(self, frame: Hashable, calls: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
        """The first number of each (module path, family) in a frame that has so many calls of each."""
        bases = self._bases.setdefault(frame, {})
        counts = self._counts.setdefault(frame, {})
        for key, count in calls.items():
            if key not in bases:
                others = (seen for other, seen in self._counts.items() if other != frame)
                bases[key] = sum(seen.get(key, 0) for seen in others)
            counts[key] = max(counts.get(key, 0), count)
        return {key: bases[key] for key in calls}
