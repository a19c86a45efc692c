"""The kernels of a net for a device that need not be there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from precc.backends.triton.compiled_graph import CompiledGraph
from precc.backends.triton.kernel_source import KernelSource
from precc.control.snapshot import Snapshot
from precc.errors import BackendError
from precc.module import PrecisionModule, session_of

__all__ = ["Listing", "kernels_for"]


@dataclass(frozen=True, slots=True)
class Listing:
    """What runs a training step.

    Args:
        kernels: generated for the groups of its graphs, in the order in which they run; equal ones once.
        left: names of groups and nodes that are left to Inductor, each with the reason.
    """

    kernels: tuple[KernelSource, ...]
    left: tuple[tuple[str, str], ...]


def kernels_for(net: PrecisionModule, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Listing:
    """The kernels of a forward and backward on these arguments, of which nothing remains.

    Args:
        net: compiled with ``backend=Triton(target=...)``, under a plan.
        args: of its forward.
        kwargs: likewise, by name.

    Raises:
        BackendError: the net has another backend.
    """
    before = Snapshot.of(net)
    output = net(*args, **kwargs)
    _differentiate(net, output)
    before.restore(net)
    owners = [own for graph in session_of(net).graphs.current for own in graph.kernel_owners]
    graphs = [own for own in owners if isinstance(own, CompiledGraph)]
    if not graphs:
        raise BackendError("kernels are listed of nets that were compiled with backend=Triton(target=...)")
    left = [(own.name, own.reason) for graph in graphs for own in graph.remaining]
    kernels: dict[KernelSource, None] = {}
    for group in (own for graph in graphs for own in graph.groups):
        if isinstance(group.built, str):
            left.append((group.group.record.name, group.built))
        else:
            record = group.group.record
            kernels |= dict.fromkeys(own.standing_for(record.nodes, record.slots) for own in group.built.kernels)
    return Listing(tuple(kernels), tuple(left))


def _differentiate(net: PrecisionModule, output: Any) -> None:
    """A backward of the sum of all real outputs, which leaves no gradients behind."""
    tensors = [own for own in _pytree.tree_leaves(output) if isinstance(own, Tensor) and own.requires_grad]
    wanted = [own for own in net.parameters() if own.requires_grad]
    if tensors and wanted:
        total = torch.stack([own.sum().double() for own in tensors]).sum()
        torch.autograd.grad(total, wanted, allow_unused=True)
