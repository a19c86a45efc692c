"""Open what torch.export keeps whole and training does not: ops with products inside, and products with a vector."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram, default_decompositions
from torch.fx import GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode

from precc.captured_graph import size_value
from precc.stored_nodes import op_name

__all__ = ["with_opened_composites"]

_aten = torch.ops.aten

#: Composite ops that hide their products whatever their arguments are.
_HIDING = (_aten.einsum.default, _aten.lstm.input, _aten.gru.input, _aten.rnn_tanh.input, _aten.rnn_relu.input)
_ATTENTION = (_aten.scaled_dot_product_attention.default, _aten._scaled_dot_product_attention_math.default)

#: Ops that compute one product, as training sees it; and composite ops that show their one product as it is.
_PRODUCTS = frozenset({"aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm", "aten.convolution"})
_SHOWING = frozenset(
    {"aten.linear", "aten.matmul", *(f"aten.conv{way}{dims}d" for way in ("", "_transpose") for dims in (1, 2, 3))}
)

#: Ops inside of ops inside of ops: more than torch has.
_DEEPEST = 8


def with_opened_composites(program: ExportedProgram, *, fused_attention: bool) -> ExportedProgram:
    """The program with the products that the trained graph has.

    Args:
        program: of torch.export.
        fused_attention: whether attention stays one op.
    """
    _as_matrices(program.graph_module)
    kept = _ATTENTION if fused_attention else ()
    decompositions = default_decompositions()
    hiding = {*_HIDING, *(() if fused_attention else _ATTENTION)}
    for _ in range(_DEEPEST):
        program = program.run_decompositions({op: decompositions[op] for op in hiding})
        hiding = _hiding(program.graph_module, set(decompositions) - {*kept})
        if not hiding:
            break
    return program


def _as_matrices(module: GraphModule) -> None:
    """Make the vector in a product of a vector and a matrix a matrix of one row, as training does."""
    for node in list(module.graph.nodes):
        if op_name(node) in ("aten.linear", "aten.matmul") and [_dims(own) for own in node.args[:2]] == [1, 2]:
            with module.graph.inserting_before(node):
                row = _call(module, _aten.unsqueeze.default, (node.args[0], 0), node)
            with module.graph.inserting_after(node):
                vector = module.graph.call_function(_aten.squeeze.dim, (node, 0))
            vector.meta = dict(node.meta)
            node.replace_all_uses_with(vector, delete_user_cb=lambda user, own=vector: user is not own)
            node.update_arg(0, row)
            node.meta = {**node.meta, "val": vector.meta["val"].unsqueeze(0)}
    module.recompile()


def _call(module: GraphModule, op: Any, args: tuple[Any, ...], beside: Node) -> Node:
    node = module.graph.call_function(op, args)
    node.meta = {**beside.meta, "val": op(args[0].meta["val"], *args[1:])}
    return node


def _dims(argument: Any) -> int:
    return argument.meta["val"].dim() if isinstance(argument, Node) else -1


def _hiding(module: GraphModule, composite: Collection[Any]) -> set[Any]:
    """The composite ops of a graph that compute products without showing them."""
    nodes = [node for node in module.graph.nodes if node.target in composite and op_name(node) not in _SHOWING]
    return {node.target for node in nodes if _products_in(node)}


def _products_in(node: Node) -> bool:
    assert callable(node.target)
    args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda own: _like(own.meta["val"]))
    seen = _Seen()
    try:
        with seen:
            node.target(*args, **kwargs)
    except Exception:
        return True  # to open it says why it cannot be
    return bool(seen.names & _PRODUCTS)


def _like(value: Any) -> Any:
    """Of the sizes in the example: with symbols, what is tried here would be taken down as a condition."""
    if isinstance(value, torch.SymInt):
        return size_value(value, {})
    if isinstance(value, Tensor):
        sizes = [size_value(size, {}) for size in value.shape]
        return torch.empty(sizes, dtype=value.dtype, device="meta")
    return type(value)(map(_like, value)) if isinstance(value, (list, tuple)) else value


class _Seen(TorchDispatchMode):
    """Notes the ops that others consist of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))
