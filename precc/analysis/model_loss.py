"""The loss of a step from the output of a net, where the user names none: the model's own, or that of the last step."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor
from torch.utils import _pytree

from precc.analysis.loss_marker import refused

__all__ = ["LastTangents", "implied_loss"]


#: Bytes of gradients of outputs that are kept after each backward without being asked for.
_UNASKED = 1 << 24


class LastTangents:
    """Gradients with respect to the outputs of the last call, as the backward computed them.

    Large ones are kept only once an analysis was asked for that needs them.
    """

    def __init__(self) -> None:
        self.found: dict[int, Tensor] = {}
        self.asked = False

    def follow(self, output: Any) -> None:
        """Wait for those of this call."""
        leaves = dict(enumerate(_pytree.tree_leaves(output)))
        wanted = {
            position: leaf
            for position, leaf in leaves.items()
            if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.grad_fn is not None
        }
        if not self.asked and sum(leaf.numel() * leaf.element_size() for leaf in wanted.values()) > _UNASKED:
            return
        found: dict[int, Tensor] = {}
        self.found = found
        for position, leaf in wanted.items():
            leaf.register_hook(_keeping(found, position))

    def forget(self) -> None:
        """Give back the memory."""
        self.found = {}


def _keeping(found: dict[int, Tensor], position: int) -> Callable[[Tensor | None], None]:
    def keep(gradient: Tensor | None) -> None:
        # none comes to an output that the loss does not use; many at once are no step's
        if gradient is not None and not (is_batchedtensor(gradient) or is_legacy_batchedtensor(gradient)):
            found[position] = gradient.detach()

    return keep


def implied_loss(tangents: Mapping[int, Tensor]) -> Callable[[Any], Tensor]:
    """What the model calls its loss, or ``sum over outputs of <tangent, output>``, or a first output of one number.

    The gradients of the second are those of the step that had these tangents; its curvature is 0. Where there is none
    of them the result is refused.
    """
    shapes = [list(own.shape) for own in tangents.values()]
    had = f" (the last backward had outputs of shape {shapes}, these inputs give others)" if shapes else ""

    def loss(output: Any) -> Tensor:
        own = _named(output)
        if isinstance(own, Tensor) and own.numel() == 1:
            return own.reshape(())
        leaves = dict(enumerate(_pytree.tree_leaves(output)))
        terms = [(leaves[position] * own).sum() for position, own in tangents.items() if _fits(leaves, position, own)]
        if terms and len(terms) == len(tangents):
            return torch.stack(terms).sum() if len(terms) > 1 else terms[0]
        if isinstance(own, Tensor):
            return refused(f"the model's own loss is one real number, not of shape {list(own.shape)}: {_REDUCED}")
        first = next((leaf for leaf in leaves.values() if isinstance(leaf, Tensor)), None)
        return first if first is not None and first.dim() == 0 and not tangents else refused(_NONE.format(had))

    return loss


_REDUCED = "reduce it, for instance with loss=lambda output: output['loss'].mean()"
_NONE = (
    "the net returns no loss{}: pass one, net.analyze(*inputs, loss=lambda output: loss_fn(output, y)), or run a "
    "training step with these inputs first, whose gradient with respect to the output then stands for it"
)


def _fits(leaves: Mapping[int, Any], position: int, tangent: Tensor) -> bool:
    leaf = leaves.get(position)
    return isinstance(leaf, Tensor) and leaf.shape == tangent.shape


def _named(output: Any) -> Any:
    """What an output calls its loss."""
    if isinstance(output, Mapping):
        return output["loss"] if "loss" in output else None
    return output.loss if hasattr(output, "loss") else None
