"""How errors of the size of their root mean square travel through the forward part of a step.

For a node ``y = f(x_1, x_2, ...)`` with small independent errors in its arguments, the mean square error of y is
``sum over k of G_k**2 * (mean square error of x_k)``, where ``G_k**2`` is the mean square of ``J_k n`` for white noise
n of mean square 1. Roundings add the mean squares of their errors, and so do sums; near 0, where rectifiers have their
kink, a sum errs less than elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ErrorGains", "GainedNode", "MeanSquare"]


@dataclass(frozen=True, slots=True)
class MeanSquare:
    """Of errors.

    Args:
        usual: of all values.
        near_zero: of values near 0.
    """

    usual: float
    near_zero: float


_NO_ERROR = MeanSquare(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class GainedNode:
    """One node.

    Args:
        name: of the node.
        arguments: names of the nodes whose errors it takes in, with ``G**2``.
        slot: that is rounded here, or the accumulator of a product; empty if there is none.
        mean_square: of its values.
        unit: unit roundoff of its own operation; 0 where it rounds nothing.
        terms: of each sum of a product; 0 of others.
    """

    name: str
    arguments: tuple[tuple[str, float], ...]
    slot: str = ""
    mean_square: float = 0.0
    unit: float = 0.0
    terms: int = 0

    @property
    def shows_values(self) -> bool:
        """Whether its values are those of its one argument: what adds a constant has that gain, but computes."""
        return len(self.arguments) == 1 and self.arguments[0][1] == 1.0 and not self.unit


@dataclass(frozen=True, slots=True)
class ErrorGains:
    """The nodes of the forward part, in order."""

    nodes: tuple[GainedNode, ...]

    def mean_squares(self, errors: Mapping[str, MeanSquare]) -> dict[str, MeanSquare]:
        """The mean square error of each node's values, if roundings in slots and sums have these mean square errors."""
        found: dict[str, MeanSquare] = {}
        for node in self.nodes:
            total = sum(gain * found.get(argument, _NO_ERROR).usual for argument, gain in node.arguments)
            own = errors.get(node.slot, _NO_ERROR)
            near = found.get(node.arguments[0][0], _NO_ERROR).near_zero if node.shows_values else total
            found[node.name] = MeanSquare(total + own.usual, near + own.near_zero)
        return found

    def slopes_of_slots(self, slopes: Mapping[str, float]) -> dict[str, float]:
        """What grows by these slopes with mean square errors at nodes, by slot whose mean square error makes them.

        The adjoint of `mean_squares`.
        """
        at_nodes, found = dict(slopes), dict[str, float]()
        for node in reversed(self.nodes):
            slope = at_nodes.get(node.name, 0.0)
            if slope and node.slot:
                found[node.slot] = found.get(node.slot, 0.0) + slope
            for argument, gain in node.arguments:
                at_nodes[argument] = at_nodes.get(argument, 0.0) + slope * gain
        return found
