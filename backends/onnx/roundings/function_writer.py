"""Writing the body of a function, with no more cases than the nodes of a model have."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from precc.backends.onnx.roundings.node_writer import QUANT_DOMAIN, NodeWriter
from precc.extras import imported

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Branch", "Uses", "attribute_of", "function_of", "same"]

#: Writes one case.
Branch = Callable[[NodeWriter], "ir.Value"]


class Uses(dict[str, set[Any]]):
    """The values that each attribute has in a model."""

    @classmethod
    def of(cls, nodes: "Sequence[ir.Node]") -> "Uses":
        """Those of nodes of one op."""
        names = {name for node in nodes for name in node.attributes}
        return cls({name: {node.attributes[name].value for node in nodes} for name in names})

    def choose(self, n: NodeWriter, name: str, branches: Mapping[Any, Branch]) -> "ir.Value":
        """By the value of an attribute, among those that it has somewhere."""
        return _chosen(n, name, {value: branches[value] for value in sorted(self[name])})


def _chosen(n: NodeWriter, name: str, branches: Mapping[Any, Branch]) -> "ir.Value":
    (value, branch), *others = branches.items()
    if not others:
        return branch(n)
    wanted = n.op("Constant", dtype="INT64", shape=(), value_int=value)
    condition = n.op("Equal", attribute_of(n, name, "int"), wanted, dtype="BOOL")
    rest = dict(others)
    then_branch, else_branch = _graph(n, branch), _graph(n, lambda inner: _chosen(inner, name, rest))
    chosen = n.op("If", condition, dtype="FLOAT", then_branch=then_branch, else_branch=else_branch)
    chosen.shape = None  # not that of the condition
    return chosen


def _graph(n: NodeWriter, branch: Branch) -> "ir.Graph":
    ir = imported("onnx_ir", "onnx")
    inner = NodeWriter(imported("onnx_ir.tape", "onnx").Tape(), n.opset)
    result = branch(inner)
    return ir.Graph([], [result], nodes=inner.tape.nodes, name="branch")  # type: ignore[no-any-return]


def attribute_of(n: NodeWriter, name: str, kind: str) -> "ir.Value":
    """An attribute of the node that calls the function, as a tensor of no dimensions."""
    ir = imported("onnx_ir", "onnx")
    reference = ir.RefAttr(f"value_{kind}", name, ir.AttributeType[kind.upper()])
    value = n.tape.op("Constant", [], {f"value_{kind}": reference})
    value.dtype = ir.DataType[{"int": "INT64", "float": "FLOAT"}[kind]]
    value.shape = ir.Shape(())
    return value


def function_of(
    op_type: str,
    inputs: Sequence[str],
    attributes: Mapping[str, str],
    opset: int,
    body: "Callable[[NodeWriter, dict[str, ir.Value]], ir.Value]",
) -> "ir.Function":
    """A function of QONNX's domain, of float inputs and one output.

    Args:
        op_type: its name.
        inputs: their names.
        attributes: the kind of each.
        opset: of the body.
        body: the output, of a writer and the inputs.
    """
    ir = imported("onnx_ir", "onnx")
    writer = NodeWriter(imported("onnx_ir.tape", "onnx").Tape(), opset)
    values = {name: ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT)) for name in inputs}
    result = body(writer, values)
    nodes, given = writer.tape.nodes, list(values.values())
    graph = ir.Graph(given, [result], nodes=nodes, opset_imports={"": opset}, name=op_type)
    for number, node in enumerate(graph.all_nodes()):  # those of a branch must differ from those around it
        node.name, node.outputs[0].name = f"{node.op_type}_{number}", f"v{number}"
    result.name = "y"
    declared = [ir.Attr(name, ir.AttributeType[kind], None) for name, kind in attributes.items()]
    return ir.Function(QUANT_DOMAIN, op_type, graph=graph, attributes=declared)  # type: ignore[no-any-return]


def same(n: NodeWriter, x: "ir.Value") -> "ir.Value":
    """A branch returns what it computes."""
    return n.op("Identity", x)
