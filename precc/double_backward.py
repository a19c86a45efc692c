"""A clear error where a compiled net is differentiated twice, which AOTAutograd cannot."""

from collections.abc import Iterable
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.autograd.graph import Node

from precc.errors import UnsupportedError

__all__ = ["guard_double_backward"]


def guard_double_backward(outputs: Iterable[Any]) -> None:
    """Have gradients of a compiled graph's outputs, where they record gradients themselves, refuse a backward."""
    node = next((found for found in map(_compiled_node, outputs) if found is not None), None)
    if node is None:
        return
    known = ref(node)  # a hook that holds its node would keep the saved tensors alive

    def before(gradients: Any) -> None:
        running = known()
        # a hook after the node, which would keep its gradients alive, only where it is needed
        if torch.is_grad_enabled() and running is not None:
            handle = running.register_hook(lambda results, _: after(results))

            def after(results: Any) -> Any:
                handle.remove()
                return _refusing(results)

    node.register_prehook(before)


def _compiled_node(output: Any) -> Node | None:
    """The node of the compiled graph that made an output, itself or through a view."""
    node = output.grad_fn if isinstance(output, Tensor) else None
    while node is not None and not hasattr(type(node), "_forward_cls"):
        node = next((own for own, _ in node.next_functions if own is not None), None)
    # an output that is a view of an input may lead to a function of the user's
    return node if node is not None and _is_of_aot(node) else None


def _is_of_aot(node: Node) -> bool:
    return str(type(node)._forward_cls.__module__).startswith("torch._functorch.")  # type: ignore[attr-defined]


def _refusing(gradients: tuple[Any, ...]) -> tuple[Any, ...]:
    once: Any = _OnlyOnce
    return tuple(once.apply(own) if isinstance(own, Tensor) and own.requires_grad else own for own in gradients)


class _OnlyOnce(torch.autograd.Function):
    """The identity, without a backward."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise UnsupportedError(
            "a gradient of a compiled net is differentiated once more (create_graph=True, as for a gradient penalty), "
            "which its graphs cannot: compute that term with the model that was given to precc.compile. It shares the "
            "parameters, and rounds nothing"
        )
