"""How errors of the size of their root mean square travel through the forward part of a step.

For a node ``y = f(x_1, x_2, ...)`` with small independent errors in its arguments, the mean square error of y is
``sum over k of G_k**2 * (mean square error of x_k)``, where ``G_k**2`` is the mean square of ``J_k n`` for white noise
n of mean square 1. Roundings add the mean squares of their errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ErrorGains", "GainedNode"]


@dataclass(frozen=True, slots=True)
class GainedNode:
    """One node.

    Args:
        name: of the node.
        arguments: names of the nodes whose errors it takes in, with ``G**2``.
        slot: that is rounded here; empty if none is.
    """

    name: str
    arguments: tuple[tuple[str, float], ...]
    slot: str = ""


@dataclass(frozen=True, slots=True)
class ErrorGains:
    """The nodes of the forward part, in order."""

    nodes: tuple[GainedNode, ...]

    def mean_squares(self, errors: Mapping[str, float]) -> dict[str, float]:
        """The mean square error of each node's values, if roundings in slots have these mean square errors."""
        found: dict[str, float] = {}
        for node in self.nodes:
            total = sum(gain * found.get(argument, 0.0) for argument, gain in node.arguments)
            found[node.name] = total + errors.get(node.slot, 0.0)
        return found
