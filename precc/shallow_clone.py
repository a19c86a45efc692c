"""Shallow clones of modules: all is shared, but the clone may be of a class that adds to the module's."""

import copy
from functools import cache
from typing import Any, TypeVar

from torch import nn

__all__ = ["base_name", "base_of", "clone", "clone_as", "copied", "plain", "reduced", "restore"]

_Kind = TypeVar("_Kind", bound=nn.Module)


def clone(module: nn.Module) -> nn.Module:
    """A module of the same class that shares everything but the hooks' registries and its own flags."""
    return _with_state(_new(type(module)), module)


def clone_as(kind: type[_Kind], module: nn.Module) -> _Kind:
    """The same, of a class that is both `kind` and the module's own."""
    return _with_state(_bare(kind, type(module)), module)


def plain(module: nn.Module) -> nn.Module:
    """What `clone_as` was given, with the state that the clone has now."""
    return _with_state(_new(base_of(module)), module)


def base_of(module: nn.Module) -> type[nn.Module]:
    """The class of the module that `clone_as` was given; wrappers may have changed the clone's since."""
    kind: Any = type(module)
    base: type[nn.Module] = kind._precc_base
    return base


def base_name(module: nn.Module) -> str:
    """Name of the class of the user's module."""
    return base_of(module).__name__


def reduced(kind: type[nn.Module], module: nn.Module) -> tuple[Any, ...]:
    """How a clone of `clone_as` is copied and pickled; its class has no name to be found by.

    What is ours travels beside the state, of which a class may leave out what it does not know.
    """
    ours = _ours(module)
    state: Any = base_of(module).__getstate__(module)  # a recurrent layer leaves weak references out
    if isinstance(state, dict):
        state = {name: value for name, value in state.items() if name not in ours and name != "_compiled_call_impl"}
    return _bare, (kind, base_of(module), ours), state


def restore(module: nn.Module, state: Any) -> None:
    """Take in the state of a copy, or of a pickle, as the module's own class does, and keep what is ours."""
    ours = _ours(module)
    base: Any = base_of(module)
    base.__setstate__(module, state)
    module.__dict__.update(ours)


def _ours(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in module.__dict__.items() if name.startswith("_precc_")}


def copied(kind: type[nn.Module], module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a clone of `clone_as`, deep where there is a memo; that of the module's own class may be no clone."""
    make, arguments, state = reduced(kind, module)
    new: nn.Module = make(*(arguments if memo is None else copy.deepcopy(arguments, memo)))
    if memo is not None:
        memo[id(module)] = new
        state = copy.deepcopy(state, memo)
    new.__setstate__(state)
    return new


def _with_state(new: _Kind, module: nn.Module) -> _Kind:
    state = {name: copy.copy(value) if name.endswith("_hooks") else value for name, value in module.__dict__.items()}
    state.pop("_compiled_call_impl", None)
    new.__dict__.update(state)
    return new


def _new(base: type[_Kind]) -> _Kind:
    new: _Kind = object.__new__(base)  # its own __new__ may want arguments
    return new


def _bare(kind: type[_Kind], base: type[nn.Module], ours: dict[str, Any] | None = None) -> _Kind:
    classes: Any = (kind, base)
    combined: type[_Kind] = _combined(*classes)
    new = _new(combined)
    new.__dict__.update(ours or {})
    return new


@cache
def _combined(kind: Any, base: Any) -> Any:
    name = "Precision" + base.__name__
    return type(base)(name, (kind, base), {"__module__": base.__module__, "_precc_base": base})
