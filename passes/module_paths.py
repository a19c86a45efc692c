"""The module that a node of a captured or exported graph runs in."""

import re

from torch.fx import Node

from precc.protocols import GraphContext

__all__ = ["module_path"]

_LOCAL = re.compile(r"L\['(\w+)'\]\.?(.*)")


def module_path(node: Node, context: GraphContext) -> str:
    """Path of the innermost module that the node runs in, from the root of the net."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    local = _LOCAL.fullmatch(path)
    if local is not None:
        base = context.layers.get(local[1], f"L['{local[1]}']")
        path = ".".join(part for part in (base, local[2]) if part)
    elif not stack:
        path = next(iter(context.layers.values()), "")
    return context.aliases.get(path, path)
