"""A net's forward as torch.export sees it, in eval mode, with the slots that it has in training."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from precc.annotations import Operand, Product, products_of, results_of, unrounded_of
from precc.backends.onnx.constant_values import ConstantValues
from precc.backends.onnx.exported_program import exported_program
from precc.captured_graph import size_value
from precc.errors import PlanError
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan
from precc.protocols import GraphContext
from precc.slots import ATTENTION, CallNumbers, aliases_of
from precc.stored_nodes import is_constant, sources_of, stored_by
from precc.strict_dynamo import opened_products

__all__ = ["TracedNet", "opened_for_export"]


@dataclass(frozen=True, slots=True, eq=False)
class TracedNet:
    """An exported program whose nodes know their slots.

    Args:
        program: in eval mode, inputs lifted.
        constants: names of the placeholders that hold parameters, buffers and constants.
        products: with their nodes, in graph order.
        attention: calls of fused attention, likewise, which have no place in a file.
        results: nodes whose results have slots, the slots, and the nodes whose values are stored.
        opaque: by node, why what it computes has no slots.
    """

    program: ExportedProgram
    constants: frozenset[str]
    products: tuple[tuple[Node, Product], ...]
    attention: tuple[tuple[Node, Product], ...]
    results: tuple[tuple[Node, Operand, Node], ...]
    opaque: Mapping[str, str]
    _values: ConstantValues

    @classmethod
    def of(
        cls, net: PrecisionModule, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
    ) -> "TracedNet":
        """That of a net; call it within `opened_for_export`.

        Raises:
            CaptureError: torch.export cannot trace the net.
            PlanError: it sees slots that the trained graph has not.
        """
        program = exported_program(net, args, kwargs, dynamic_shapes)
        graph = program.graph_module.graph
        signature = program.graph_signature
        inputs = set(signature.user_inputs)
        constants = frozenset(node.name for node in graph.find_nodes(op="placeholder") if node.name not in inputs)
        context = GraphContext(
            constants=constants,
            plan=None,
            layers={},
            aliases=aliases_of(net),
            frame=0,
            numbers=CallNumbers(),
        )
        session_of(net).options.naming.run(program.graph_module, context)
        captured = session_of(net).graphs.modules(net)
        named = [(node, own) for node, own in products_of(graph) if own.operands[0].slot.layer in captured]
        products = tuple((node, own) for node, own in named if own.operands[0].slot.family != ATTENTION)
        attention = tuple((node, own) for node, own in named if own.operands[0].slot.family == ATTENTION)
        found = [(node, result, stored_by(node, constants)) for node, result in results_of(graph)]
        results = tuple((n, own, s) for n, own, s in found if own.slot.layer in captured and s is not None)
        opaque = {node.name: record.reason for node, record in unrounded_of(graph)}
        traced = cls(program, constants, products, attention, results, opaque, ConstantValues(program))
        traced._check(net)
        return traced

    @property
    def operands(self) -> tuple[tuple[Node, Operand], ...]:
        """Of all products, with the nodes of these."""
        return tuple((node, operand) for node, product in self.products for operand in product.operands)

    def plan(self, net: PrecisionModule) -> PrecisionPlan:
        """The net's plan, with each operand of the graph named."""
        work = {
            operand.slot.name: size_value(product.multiply_adds, {})
            for _, product in (*self.products, *self.attention)
            for operand in product.operands
            if isinstance(product.multiply_adds, int)
        }
        named = net.plan.multiply_adds
        return net.plan.resolve({name: count for name, count in work.items() if name not in named})

    def _check(self, net: PrecisionModule) -> None:
        session = session_of(net)
        known = session.graphs.multiply_adds
        slots = {operand.slot.name for _, operand in self.operands}
        if any(graph.training for graph in session.graphs.known) and (strange := sorted(slots - set(known))):
            raise PlanError(
                f"torch.export sees {len(strange)} slot(s) that the trained graph has not, such as {strange[0]!r}: "
                "does the forward depend on training mode, or break the graph inside a module?"
            )

    def constant(self, node: Node) -> Tensor | None:
        """The value of a node that depends on parameters and buffers alone; None if it depends on an input.

        None too behind a product that has slots: the file computes it, with its roundings.
        """
        if not is_constant(node, self.constants) or self._is_computed(node):
            return None
        value: Tensor = self._values.of(node)
        return value

    def _is_computed(self, node: Node) -> bool:
        """Whether it is, or depends on, a product with slots."""
        products = {own for own, _ in self.products}
        return any(own in products for own in sources_of(node))


@contextmanager
def opened_for_export(net: PrecisionModule) -> Iterator[None]:
    """Trace and translate with products opened as in training, without torch's remarks on itself."""
    with warnings.catch_warnings():
        # torch.export at itself: it copies its pytree specs in a way that it has deprecated, and
        # remarks on the weights that its own recurrent layers keep in a list
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*_flat_weights", category=UserWarning)
        # markers have the symbolic shapes of what they mark, which the translation only copies
        warnings.filterwarnings("ignore", message="Raw SymInt value", category=UserWarning)
        with opened_products(fused_attention=session_of(net).options.fused_attention):
            yield
