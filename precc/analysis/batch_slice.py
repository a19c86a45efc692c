"""The first examples of a batch, where an analysis of all of them would take too long or too much memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree

from precc.errors import AnalysisError

__all__ = ["BatchSlice"]


@dataclass(frozen=True, slots=True)
class BatchSlice:
    """Which examples an analysis looks at.

    Args:
        rows: that it looks at, the first ones.
        of: size of the batch, the first dimension of the first tensor that the net is called with; 0: it has none.

    >>> print(BatchSlice(32, 128))
    32 of 128 examples
    """

    rows: int
    of: int

    def __str__(self) -> str:
        return f"{self.rows} of {self.of} examples" if self.partial else f"all {self.of} examples"

    @classmethod
    def of_inputs(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: int | None) -> "BatchSlice":
        """So many examples of these inputs; None: all.

        Raises:
            AnalysisError: `rows` is given, and no input has a dimension.
        """
        leaves = _pytree.tree_leaves((args, dict(kwargs)))
        batch = next((leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), 0)
        if rows is not None and not batch:
            raise AnalysisError(f"rows={rows} of a batch, but no input is a tensor with a dimension")
        return cls(batch if rows is None else min(rows, batch), batch)

    @property
    def partial(self) -> bool:
        """Whether there are more."""
        return self.rows < self.of

    def narrowed(self, tree: Any) -> Any:
        """Of each tensor whose first dimension is the batch's, the part of these examples."""
        if not self.partial:
            return tree

        def part(leaf: Any) -> Any:
            batched = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == self.of
            return leaf[: self.rows] if batched else leaf

        return _pytree.tree_map(part, tree)

    def tangents(self, found: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Gradients with respect to the outputs, as if the loss were a mean over these examples alone.

        What has not the batch's dimension, such as a loss that the net returns, is taken for such a mean itself.
        """
        if not self.partial:
            return dict(found)
        parts = {position: (own, self.narrowed(own)) for position, own in found.items()}
        return {
            position: part if part is own else part * (self.of / self.rows) for position, (own, part) in parts.items()
        }
