"""Vectors along which a gradient is differentiated: those in which errors mostly move it, and random ones."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Directions"]


@dataclass(slots=True, eq=False)
class Directions:
    """Of the gradient of all parameters, in the norm of a metric M.

    Args:
        gradients: by name of the parameter.
        metric: diagonal of M by name; what is not named has 1.
        seed: of the random vectors.
    """

    gradients: Mapping[str, Tensor]
    metric: Mapping[str, Tensor]
    seed: int
    _basis: list[dict[str, Tensor]] = field(default_factory=list)  # orthonormal, of sqrt(M) g

    @property
    def known(self) -> int:
        """How many there are beside the random ones."""
        return len(self._basis)

    def add(self, moved: Mapping[str, Tensor]) -> None:
        """Take in the direction from the gradient to one with errors; what it does not name has none."""
        change = {
            name: self._root(name, moved[name] - own.detach() if name in moved else torch.zeros_like(own))
            for name, own in self.gradients.items()
        }
        before = _norm(change)
        rest = self._orthogonal(self._orthogonal(change))
        norm = _norm(rest)
        if norm > 1e-3 * before and math.isfinite(norm):
            self._basis.append({name: own / norm for name, own in rest.items()})

    def vectors(self, count: int) -> list[tuple[list[Tensor], float]]:
        """So many vectors r, in the order of the gradients, with factors.

        The mean of ``(factor * <g, r>)**2`` over them is an unbiased estimate of ``|sqrt(M) g|**2`` for any g, that is
        exact in the directions taken in.
        """
        drawn = max(1, count - self.known)
        total = self.known + drawn
        generator = torch.Generator().manual_seed(self.seed & (2**63 - 1))
        found = [(basis, math.sqrt(total)) for basis in self._basis]
        for _ in range(drawn):
            signs = {name: _signs(own, generator) for name, own in self.gradients.items()}
            found.append((self._orthogonal(signs), math.sqrt(total / drawn)))
        return [([self._root(name, own) for name, own in r.items()], scale) for r, scale in found]

    def _root(self, name: str, value: Tensor) -> Tensor:
        return value * self.metric[name].sqrt() if name in self.metric else value

    def _orthogonal(self, vector: dict[str, Tensor]) -> dict[str, Tensor]:
        for basis in self._basis:
            share = sum(float((vector[name].double() * own.double()).sum()) for name, own in basis.items())
            vector = {name: own - share * basis[name] for name, own in vector.items()}
        return vector


def _norm(vector: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(own.double().square().sum()) for own in vector.values()))


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(2, like.shape, generator=generator, dtype=torch.int8).to(like) * 2 - 1
