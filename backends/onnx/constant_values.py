"""The values of nodes of an exported program that depend on parameters and buffers alone."""

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

__all__ = ["ConstantValues"]


class ConstantValues:
    """Evaluates nodes of a program that depend on constants alone, each once."""

    def __init__(self, program: ExportedProgram) -> None:
        held = {**program.state_dict, **program.constants}
        specs = program.graph_signature.input_specs
        names = {own.arg.name: str(own.target) for own in specs if hasattr(own.arg, "name")}
        self._held = {name: held[target] for name, target in names.items() if target in held}
        self._known: dict[Node, Any] = {}

    @torch.no_grad()
    def of(self, node: Node) -> Any:
        """Its value."""
        if node not in self._known:
            self._known[node] = self._computed(node)
        return self._known[node]

    def _computed(self, node: Node) -> Any:
        if node.op == "placeholder":
            return self._held[node.name]
        assert callable(node.target)
        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), self.of)
        return node.target(*args, **kwargs)
