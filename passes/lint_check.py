"""What a check of the lint is: a kind of finding, and the function that looks for it at one node."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch.fx import Node

from precc.analysis.traced_step import TracedStep
from precc.annotations import Product
from precc.plan import PrecisionPlan

__all__ = ["Check", "Remark", "Scope"]


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """What a check may know beside the node.

    Args:
        step: whose graph is looked at.
        plan: by which it is to run; None: as the tensors' own arithmetic does.
        products: the records of the products.
    """

    step: TracedStep
    plan: PrecisionPlan | None
    products: Mapping[Node, Product]


@dataclass(frozen=True, slots=True)
class Remark:
    """What is wrong, as one sentence with numbers, and the better form as code."""

    problem: str
    better: str


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of finding.

    Args:
        kind: its name.
        find: what is wrong at a node, or None.
        backward: whether nodes of the backward are looked at too.
    """

    kind: str
    find: Callable[[Node, Scope], Remark | None]
    backward: bool = False
