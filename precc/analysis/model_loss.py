"""The loss of a step from the output of a net, where the user names none: the model's own, or that of the last step."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor
from torch.utils import _pytree

__all__ = ["LastTangents", "implied_loss"]


class LastTangents:
    """Gradients with respect to the outputs of the last call, as the backward computed them."""

    def __init__(self) -> None:
        self.found: dict[int, Tensor] = {}

    def follow(self, output: Any) -> None:
        """Forget those of the call before, and wait for those of this one."""
        found: dict[int, Tensor] = {}
        self.found = found
        for position, leaf in enumerate(_pytree.tree_leaves(output)):
            if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.grad_fn is not None:
                leaf.register_hook(_keeping(found, position))

    def forget(self) -> None:
        """Give back the memory."""
        self.found = {}


def _keeping(found: dict[int, Tensor], position: int) -> Callable[[Tensor], None]:
    def keep(gradient: Tensor) -> None:
        if not (is_batchedtensor(gradient) or is_legacy_batchedtensor(gradient)):  # many gradients at once
            found[position] = gradient.detach()

    return keep


def implied_loss(tangents: Mapping[int, Tensor]) -> Callable[[Any], Tensor]:
    """The loss that the model returns, or else ``sum over outputs of <tangent, output>``.

    The gradients of the second are those of the step that had these tangents; its curvature is 0. The result is no
    single number where there is neither.
    """

    def loss(output: Any) -> Tensor:
        own = _own(output)
        if isinstance(own, Tensor) and own.numel() == 1:
            return own.reshape(())
        leaves = dict(enumerate(_pytree.tree_leaves(output)))
        terms = [(leaves[position] * own).sum() for position, own in tangents.items() if _fits(leaves, position, own)]
        if not terms or len(terms) < len(tangents):
            return next(leaf for leaf in leaves.values() if isinstance(leaf, Tensor)).reshape(-1).repeat(2)
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    return loss


def _fits(leaves: Mapping[int, Any], position: int, tangent: Tensor) -> bool:
    leaf = leaves.get(position)
    return isinstance(leaf, Tensor) and leaf.shape == tangent.shape


def _own(output: Any) -> Any:
    """What may be the loss in an output."""
    if isinstance(output, Mapping):
        return output["loss"] if "loss" in output else None
    if hasattr(output, "loss"):
        return output.loss
    if isinstance(output, (tuple, list)) and len(output) > 0:
        return output[0]
    return output
