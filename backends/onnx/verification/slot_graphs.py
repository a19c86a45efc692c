"""Parts of an ONNX model: from some tensors to others, and the whole with more outputs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy.typing as npt

from precc.errors import BackendError
from precc.extras import imported

__all__ = ["FED", "ModelParts", "TAP", "unscaled"]

#: Begins the names of outputs that were added.
TAP = "precc.tap."

#: Begins the names of inputs that were added.
FED = "precc.fed."


@dataclass(frozen=True, eq=False)
class ModelParts:
    """Of one model (``onnx.ModelProto``), which stays as it is; functions and opsets are those of the model."""

    model: Any

    @cached_property
    def producers(self) -> dict[str, Any]:
        """The node that computes a tensor, by its name."""
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def initializers(self) -> dict[str, Any]:
        """Constants of the graph by name."""
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the model is fed with."""
        return tuple(entry.name for entry in self.model.graph.input if entry.name not in self.initializers)

    @cached_property
    def tensors(self) -> frozenset[str]:
        """Names of all tensors of the graph."""
        return frozenset((*self.inputs, *self.initializers, *self.producers))

    def nodes_to(self, outputs: Iterable[str], cut: Iterable[str] = ()) -> tuple[list[Any], set[str]]:
        """The nodes between the tensors `cut` and the outputs, in the order of the graph, and all that these read."""
        found, waiting, known, ends = set(), list(outputs), set[str](), set(cut)
        while waiting:
            name = waiting.pop()
            node = None if name in ends else self.producers.get(name)
            if name and name not in known:
                known.add(name)
                if node is not None and id(node) not in found:
                    found.add(id(node))
                    waiting += _reads(node)
        return [node for node in self.model.graph.node if id(node) in found], known

    def is_constant(self, name: str) -> bool:
        """Whether a tensor depends on no input of the model."""
        return not self.nodes_to([name])[1] & set(self.inputs)

    def readers(self, name: str) -> list[Any]:
        """The nodes that read a tensor."""
        return [node for node in self.model.graph.node if name in set(_reads(node))]

    def part(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],
        outputs: Iterable[str],
        constants: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> Any:
        """The model that computes `outputs` from `feeds`, of these shapes, with `constants` in the place of tensors.

        Raises:
            BackendError: the outputs depend on other inputs of the model too.
        """
        onnx = imported("onnx", "onnx")
        constants, outputs = constants or {}, list(outputs)
        nodes, read = self.nodes_to(outputs, (*feeds, *constants))
        made = {name for node in nodes for name in node.output} | _bound(nodes)
        missing = sorted(read - made - {*feeds, *constants, *self.initializers})
        if missing:
            raise BackendError(f"{outputs[0]!r} depends on {missing[0]!r} beside {', '.join(sorted(feeds))}")
        if unread := sorted(set(feeds) - read):
            raise BackendError(f"{outputs[0]!r} does not depend on {unread[0]!r}")
        held = [self.initializers[name] for name in self.initializers if name in read - {*feeds, *constants}]
        held += [onnx.numpy_helper.from_array(own, name) for name, own in constants.items() if name in read]
        kind = onnx.helper.np_dtype_to_tensor_dtype
        graph = onnx.helper.make_graph(
            nodes,
            "part",
            [onnx.helper.make_tensor_value_info(name, kind(own.dtype), own.shape) for name, own in feeds.items()],
            [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
            initializer=held,
        )
        return self._model(graph)

    def tapped(self, names: Iterable[str]) -> Any:
        """The whole model with copies of these tensors as further outputs, named `TAP` and the name."""
        onnx = imported("onnx", "onnx")
        names = list(dict.fromkeys(names))
        graph = onnx.GraphProto()
        graph.CopyFrom(self.model.graph)
        for name in names:
            graph.node.append(onnx.helper.make_node("Identity", [name], [f"{TAP}{name}"]))
            graph.output.append(onnx.helper.make_empty_tensor_value_info(f"{TAP}{name}"))
        return self._model(graph)

    def forced(self, feeds: Mapping[str, npt.NDArray[Any]], names: Iterable[str]) -> Any:
        """The model in which all readers of the tensors `feeds` read inputs, named `FED` and the name, instead.

        Its outputs are the tensors `names`, as they are computed, named `TAP` and the name.
        """
        onnx = imported("onnx", "onnx")
        names, kind = list(dict.fromkeys(names)), onnx.helper.np_dtype_to_tensor_dtype
        graph = onnx.GraphProto()
        graph.CopyFrom(self.model.graph)
        _rename(graph.node, {name: f"{FED}{name}" for name in feeds})
        taps = [onnx.helper.make_node("Identity", [name], [f"{TAP}{name}"]) for name in names]
        nodes, read = ModelParts(self._model(graph)).nodes_to(names)
        del graph.node[:], graph.output[:], graph.value_info[:]
        held = [tensor for tensor in self.initializers.values() if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(held)
        graph.node.extend([*nodes, *taps])
        graph.output.extend(onnx.helper.make_empty_tensor_value_info(f"{TAP}{name}") for name in names)
        values = {f"{FED}{name}": value for name, value in feeds.items()}
        graph.input.extend(
            onnx.helper.make_tensor_value_info(name, kind(own.dtype), own.shape) for name, own in values.items()
        )
        return self._model(graph)

    def _model(self, graph: Any) -> Any:
        made = imported("onnx", "onnx").ModelProto()
        made.ir_version = self.model.ir_version
        made.graph.CopyFrom(graph)
        made.opset_import.extend(self.model.opset_import)
        made.functions.extend(self._called(graph.node))
        return made

    def _called(self, nodes: Iterable[Any]) -> list[Any]:
        """The functions that nodes call, and those that these call."""
        functions = {(own.domain, own.name): own for own in self.model.functions}
        found: dict[tuple[str, str], Any] = {}
        waiting = list(_calls(nodes))
        while waiting:
            key = waiting.pop()
            if key in functions and key not in found:
                found[key] = functions[key]
                waiting += _calls(functions[key].node)
        return list(found.values())


def _reads(node: Any) -> Iterator[str]:
    """What a node reads, in its subgraphs too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)


def unscaled(model: Any, product: Any, *, factor: Callable[[float], float] = lambda _: 1.0) -> Any:
    """A part with other factors ``alpha`` and ``beta`` of a product; the part is changed.

    Args:
        model: the part.
        product: its node in the model that the part is of.
        factor: from a factor of it to the one in its place.
    """
    for node in model.graph.node:
        if node.op_type == "Gemm" and node.output[:1] == product.output[:1]:
            for own in node.attribute:
                if own.name in ("alpha", "beta"):
                    own.f = factor(own.f)
    return model


def _rename(nodes: Iterable[Any], names: Mapping[str, str]) -> None:
    """Make nodes read other tensors, in their subgraphs too."""
    for node in nodes:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                _rename(graph.node, names)


def _calls(nodes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """The ops of nodes, in their subgraphs too."""
    for node in nodes:
        yield node.domain, node.op_type
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _calls(graph.node)


def _bound(nodes: Iterable[Any]) -> set[str]:
    """Names that subgraphs of the nodes define themselves."""
    found: set[str] = set()
    for node in nodes:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                found |= {entry.name for entry in (*graph.input, *graph.initializer)}
                found |= {name for inner in graph.node for name in inner.output} | _bound(graph.node)
    return found
