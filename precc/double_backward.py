"""Clear errors where a compiled net is differentiated twice, or many times at once, which AOTAutograd cannot."""

from collections.abc import Collection, Iterable
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from precc.errors import UnsupportedError

__all__ = ["guard_double_backward"]


def guard_double_backward(outputs: Iterable[Any], inputs: Iterable[Any]) -> None:
    """Have gradients of a compiled graph's outputs, where they record gradients themselves, refuse a backward."""
    sources = [own for own in inputs if isinstance(own, Tensor) and own.grad_fn is not None]
    before = {own.grad_fn for own in sources}
    node = next((found for found in (_compiled_node(own, before) for own in outputs) if found is not None), None)
    if node is not None:
        # a hook that holds its node would keep the saved tensors alive, and one that holds inputs those
        made = [ref(own) for own in sources]
        node.register_prehook(partial(_before_untraced, ref(node), made))


def _before(known: ReferenceType[Node], made: list[ReferenceType[Tensor]], gradients: Any) -> None:
    if any(isinstance(own, Tensor) and (is_batchedtensor(own) or is_legacy_batchedtensor(own)) for own in gradients):
        raise UnsupportedError(
            "several gradients of a compiled net are computed at once (is_grads_batched=True, vectorize=True, "
            "torch.vmap), which its graphs cannot: compute them one by one"
        )
    running = known()
    # a hook after the node, which would keep its gradients alive, only where it is needed
    if torch.is_grad_enabled() and running is not None:
        handles: list[RemovableHandle] = []
        sources = [*_leaves(running), *(own for own in (source() for source in made) if own is not None)]
        handles.append(running.register_hook(partial(_after_untraced, handles, sources)))


def _after(handles: list[RemovableHandle], sources: Iterable[Tensor], results: Any, _: Any) -> Any:
    handles.pop().remove()
    return _refusing(results, sources)


#: A net's forward that calls `torch.autograd.grad` would have Dynamo trace the hooks.
_before_untraced, _after_untraced = torch.compiler.disable(_before), torch.compiler.disable(_after)


def _compiled_node(output: Any, before: Collection[Node | None]) -> Node | None:
    """The node of the compiled graph that made an output, itself or through a view, and none that made an input."""
    node = output.grad_fn if isinstance(output, Tensor) else None
    while node is not None and node not in before and not hasattr(type(node), "_forward_cls"):
        node = next((own for own, _ in node.next_functions if own is not None), None)
    # an output that is a view of an input may lead to another net's graph, or to a function of the user's
    return node if node is not None and node not in before and _is_of_aot(node) else None


def _is_of_aot(node: Node) -> bool:
    return str(type(node)._forward_cls.__module__).startswith("torch._functorch.")  # type: ignore[attr-defined]


def _leaves(node: Node) -> list[Tensor]:
    """The tensors that a node's result depends on, and that have no history of their own."""
    seen, waiting, leaves = {node}, [node], []
    while waiting:
        for own, _ in waiting.pop().next_functions:
            if own is not None and own not in seen:
                seen.add(own)
                waiting.append(own)
                leaves += [own.variable] if hasattr(own, "variable") else []
    return leaves


def _refusing(gradients: tuple[Any, ...], sources: Iterable[Tensor]) -> tuple[Any, ...]:
    """The gradients, as results of all that the forward depends on: AOTAutograd knows some of these alone.

    Else a second derivative by the others would be None, or 0.
    """
    once: Any = _OnlyOnce
    return tuple(once.apply(own, *sources) if isinstance(own, Tensor) else own for own in gradients)


class _OnlyOnce(torch.autograd.Function):
    """The identity, without a backward."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise UnsupportedError(
            "a gradient of a compiled net is differentiated once more (create_graph=True, as for a gradient penalty), "
            "which its graphs cannot: compute that term with the model that was given to precc.compile. It shares the "
            "parameters, and rounds nothing"
        )
