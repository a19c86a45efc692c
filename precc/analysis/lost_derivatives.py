"""Where the derivatives of a step are lost: operators of which autograd knows none.

They count as constants, and adjoints do not pass them. Some operators say so when they are called, some when the
derivative is asked for, and the results of some record none, as if they depended on nothing: of a custom operator whose
kernel hides what it does, of a number that is taken out of a tensor. Of comparisons, indices and integers the
derivative is known: it is zero. So is that of what takes no more from a tensor than its shape.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_flatten, tree_unflatten

from precc.analysis.derivatives import WithoutDerivative, differentiable, says_missing
from precc.analysis.node_values import detached, listed, records_gradient
from precc.generators import Generators
from precc.round_op import ROUND

__all__ = ["Derivatives", "Edge", "depends_on_values", "holds_reals", "is_torchs", "sources"]

_aten = torch.ops.aten

#: A node and one that reads it.
Edge = tuple[Node, Node]

#: Of torch's own operators: they record a derivative, or say that they have none.
_OWN_NAMESPACES = frozenset({"aten", "prims"})

#: Results that take no more from an argument than its shape.
_INDEPENDENT = frozenset(
    f"aten.{name}"
    for name in (
        "empty_like",
        "full_like",
        "new_empty",
        "new_empty_strided",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones_like",
        "rand_like",
        "randn_like",
        "zeros_like",
    )
)

#: How torch says, when an operator is called, that it has no derivative by an argument, and that it has by others.
_NO_ARGUMENT = re.compile(r"The function '(\w+)' is not differentiable with respect to argument '(\w+)'")

_PASSING = frozenset({_aten.alias.default, _aten.detach.default})


@dataclass(slots=True, eq=False)
class Derivatives:
    """Computes the nodes of a step by operators that can be differentiated, and keeps what cannot.

    Args:
        missing: by operator, the edges that adjoints do not pass, or not wholly: from its arguments, or to the readers
            of a result that records no derivative.
    """

    missing: dict[Node, frozenset[Edge]] = field(default_factory=dict)
    _constants: dict[Node, frozenset[Node]] = field(default_factory=dict)  # arguments that are detached, by operator
    _seen: set[Node] = field(default_factory=set)

    def value(self, node: Node, values: Mapping[Node, Any]) -> Any:
        """Of a node that calls an operator."""
        args, kwargs = self._arguments(node, values)
        new = node not in self._seen and isinstance(node.target, (OpOverload, HigherOrderOperator))
        own = [values[one] for one in node.all_input_nodes if records_gradient(values[one])] if new else []
        unseen = bool(own)
        state = Generators.of(own) if unseen and not is_torchs(node.target) else None
        if unseen and str(node.target).startswith("auto_functionalized"):  # it writes where autograd does not look
            self._close(node, node.all_input_nodes)
            args, kwargs = self._arguments(node, values)
        try:
            result = differentiable(node.target, args, kwargs)
        except WithoutDerivative:
            self._close(node, node.all_input_nodes)
            return self.value(node, values)
        except RuntimeError as error:
            refused = _refused(node, error)
            if refused is None:
                raise
            self._close(node, [refused])
            return self.value(node, values)
        if unseen:
            before = self._constants.get(node)
            self._seen.add(node)
            self._look(node, result, values)
            if self._constants.get(node) != before:
                if state is not None:
                    state.restore()
                return self.value(node, values)
        return result

    def search(self, node: Node, value: Any, values: Mapping[Node, Any]) -> None:
        """Ask an operator for its derivative by each argument; those without one are constants from now on."""
        if isinstance(node.target, OpOverload) and node.target not in (ROUND, _aten.detach.default):
            self._close(node, _without_derivative(node, values)[0])

    def _arguments(self, node: Node, values: Mapping[Node, Any]) -> tuple[Any, Any]:
        constants = self._constants.get(node, frozenset())

        def read(argument: Node) -> Any:
            return detached(values[argument]) if argument in constants else values[argument]

        return map_arg(node.args, read), map_arg(node.kwargs, read)

    def _close(self, node: Node, arguments: Sequence[Node]) -> None:
        """Take these arguments as constants."""
        self._note(node, [(argument, node) for argument in arguments])
        if arguments:
            self._constants[node] = self._constants.get(node, frozenset()).union(arguments)

    def _note(self, node: Node, edges: Sequence[Edge]) -> None:
        if edges:
            self.missing[node] = self.missing.get(node, frozenset()).union(edges)

    def _look(self, node: Node, result: Any, values: Mapping[Node, Any]) -> None:
        """Whether derivatives are lost without a word."""
        known = is_torchs(node.target)
        results = listed(result)
        lost = [index for index, own in enumerate(results) if _has_reals(own) and not records_gradient(own)]
        if lost and not any(map(records_gradient, results)):
            if not (known and _is_constant(node, values)):
                self._close(node, node.all_input_nodes)
            return
        readers = [reader for index in lost for reader in node.users if reader.args[1] == index]
        self._note(node, [(node, reader) for reader in readers if not (known and _is_saved(reader, node))])
        if not known:
            raising, silent = _without_derivative(node, values)
            self._close(node, raising)
            self._note(node, [(argument, node) for argument in silent])


def is_torchs(target: Any) -> bool:
    """Whether an operator is torch's own, and not a custom one."""
    return isinstance(target, OpOverload) and target.namespace in _OWN_NAMESPACES


def sources(node: Node) -> Sequence[Node]:
    """The arguments whose values its result depends on; of others it takes the shape."""
    if isinstance(node.target, OpOverload) and str(node.target.overloadpacket) in _INDEPENDENT:
        return ()
    if node.target is _aten.copy.default:  # from the second one over the first
        return [own for own in node.args[1:2] if isinstance(own, Node)]
    return node.all_input_nodes


def depends_on_values(node: Node) -> bool:
    """Whether a result is more than random numbers, or constants, in the shape of an argument."""
    target: Any = node.target
    return bool(sources(node)) and torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ())


def holds_reals(node: Node) -> bool:
    """Whether real or complex numbers are among its values."""
    return "val" not in node.meta or _has_reals(node.meta["val"])


def _is_constant(node: Node, values: Mapping[Node, Any]) -> bool:
    target: Any = node.target
    return torch.Tag.nondeterministic_seeded in target.tags or not any(
        records_gradient(values[own]) for own in sources(node)
    )


def _is_saved(node: Node, source: Node) -> bool:
    """Whether only the backward of the source reads it: its derivative by the source's argument counts that."""
    return all(
        _is_saved(reader, source) if reader.target in _PASSING else _is_backward_of(reader, source)
        for reader in node.users
    )


def _is_backward_of(node: Node, source: Node) -> bool:
    argument = source.all_input_nodes[0]
    return "backward" in str(node.target) and argument in map(_passed, node.all_input_nodes)


def _refused(node: Node, error: RuntimeError) -> Node | None:
    """The argument of an operator that this error says it has no derivative by; None if it says something else."""
    found = _NO_ARGUMENT.search(str(error))
    if found is None or not isinstance(node.target, OpOverload):
        return None
    operator, name = found.groups()
    schema = node.target._schema
    if schema.name.partition("::")[2] != operator:  # one in its place
        return None
    position = next(place for place, own in enumerate(schema.arguments) if own.name == name)
    argument = node.args[position] if position < len(node.args) else node.kwargs.get(name)
    return argument if isinstance(argument, Node) else None


def _passed(node: Node) -> Node:
    while node.target in _PASSING:
        (node,) = node.all_input_nodes
    return node


def _without_derivative(node: Node, values: Mapping[Node, Any]) -> tuple[list[Node], list[Node]]:
    """Arguments by which there is none: those where asking raises an error, and those where it gives nothing."""
    flat, spec = tree_flatten((node.args, node.kwargs))
    given = [values[own] if isinstance(own, Node) else own for own in flat]
    with Generators.of(own for own in given if isinstance(own, Tensor)).again(), torch.enable_grad():
        entered = [_leaf(own) if isinstance(own, Tensor) and _has_reals(own) else own for own in given]
        leaves = [(own, leaf) for own, leaf in zip(flat, entered, strict=True) if isinstance(own, Node)]
        real = [(own, leaf) for own, leaf in leaves if records_gradient(leaf)]
        args, kwargs = tree_unflatten(entered, spec)
        try:
            results = [own for own in listed(differentiable(node.target, args, kwargs)) if records_gradient(own)]
        except WithoutDerivative:
            return [own for own, _ in real], []
        except RuntimeError as error:
            if _NO_ARGUMENT.search(str(error)) is None:
                raise
            return [], []  # of the other arguments it has derivatives
        answers = [(own, _answer(results, leaf)) for own, leaf in real if results]
    return [own for own, found in answers if found is _RAISES], [own for own, found in answers if found is None]


#: In the place of a derivative that cannot be had.
_RAISES = object()


def _answer(results: list[Tensor], leaf: Tensor) -> Tensor | object | None:
    ones = [torch.ones_like(own) for own in results]
    try:
        (found,) = torch.autograd.grad(results, leaf, ones, allow_unused=True, retain_graph=True)
    except (NotImplementedError, RuntimeError) as error:
        if not says_missing(error):
            raise
        return _RAISES
    return found


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_()


def _has_reals(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() or value.is_complex()
    if isinstance(value, (tuple, list)):
        return any(map(_has_reals, value))
    return isinstance(value, (float, torch.SymFloat))
