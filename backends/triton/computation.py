"""What a kernel computes, whatever it is called: layers that are alike have kernels that differ in names alone."""

import ast
from functools import lru_cache

from precc.backends.triton.kernel_source import KernelSource

__all__ = ["Computed", "computation", "computed"]

Computed = tuple[str, tuple[str, ...], tuple[tuple[str, int], ...], int, int]


def computed(source: KernelSource) -> Computed:
    """Equal of kernels that the compiler makes the same of, but for names."""
    types = tuple(argument.type for argument in source.arguments)
    return computation(source.text, source.name), types, (*source.tile.items(),), source.num_warps, source.num_stages


@lru_cache(1024)
def computation(text: str, name: str) -> str:
    """The text of a kernel without comments, its variables and arguments numbered in their order.

    Constants keep their names, by which they are given; so do the other functions of the text.

    Args:
        text: a Python module.
        name: of the kernel in it.
    """
    module = ast.parse(text)
    (kernel,) = (own for own in module.body if isinstance(own, ast.FunctionDef) and own.name == name)
    own = _own_names(kernel)
    numbers = {old: f" {n}" for n, old in enumerate(own)}  # which are no names of Python's
    for node in ast.walk(kernel):
        if isinstance(node, ast.Name):
            node.id = numbers.get(node.id, node.id)
        elif isinstance(node, ast.arg):
            node.arg = numbers.get(node.arg, node.arg)
    kernel.name = "_"
    return ast.unparse(module)


def _own_names(kernel: ast.FunctionDef) -> dict[str, None]:
    """Of what it is given but constants, and of what it assigns to, in an order that does not depend on them."""
    given = [argument.arg for argument in kernel.args.args if argument.annotation is None]
    nodes = [node for node in ast.walk(kernel) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return dict.fromkeys([*given, *(node.id for node in nodes)])
