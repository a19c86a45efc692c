"""Groups of casts made by hand, and rounded bits compared, for the tests of the Triton backend."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from precc.backends.triton.device import INTERPRETER, Device
from precc.backends.triton.program import Group, LiveRow
from precc.backends.triton.templates.cast import CastProgram, CastTemplate
from precc.fusion_group import FusionGroup, GroupKind
from precc.rounding import Row

KEY = 0x123456789ABCDEF
NAN_OR_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}

#: Nodes of a group: the graph, its value and its plan to what it returns.
Nodes = Callable[[Graph, Node, Node], Sequence[Node]]


def pack_op() -> torch._ops.OpOverload:
    """The operator that packs, declared here where nothing has yet."""
    try:
        return torch.ops.precc.pack.default
    except AttributeError:
        torch.library.define("precc::pack", "(Tensor x, Tensor plan, int row, bool transposed) -> Tensor")
        return torch.ops.precc.pack.default


def group_of(nodes: Nodes, name: str = "fc1_cast") -> Group:
    """A group of these nodes."""
    graph = Graph()
    x, plan = graph.placeholder("x"), graph.placeholder("plan")
    graph.output(tuple(nodes(graph, x, plan)))
    record = FusionGroup(name, GroupKind.CAST, (), ())
    return Group(record, GraphModule(torch.nn.Module(), graph), backward=False)


def live(*rows: Row) -> dict[int, LiveRow]:
    """Rows by number, with one key."""
    return {number: LiveRow(row, None, KEY, number) for number, row in enumerate(rows)}


def built(nodes: Nodes, x: Tensor, *rows: Row, device: Device = INTERPRETER) -> CastProgram:
    """The program of a group; fails where there is none."""
    program = CastTemplate().build(group_of(nodes), [x], live(*rows), device)
    assert isinstance(program, CastProgram), program
    return program


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    """Whether shapes and bits are equal; any NaN equals any other."""
    integer = NAN_OR_BITS[ours.element_size()]
    if ours.shape != theirs.shape or ours.dtype is not theirs.dtype:
        return False
    both_nan = ours.isnan() & theirs.isnan()
    return bool(((ours.contiguous().view(integer) == theirs.contiguous().view(integer)) | both_nan).all())
