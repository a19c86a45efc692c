"""Shallow clones of modules: all is shared, but the clone may be of a class that adds to the module's."""

import copy
from functools import cache
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

__all__ = ["SharedClone", "base_name", "base_of", "clone", "clone_as", "plain"]

_Kind = TypeVar("_Kind", bound=nn.Module)


class SharedClone(nn.Module):
    """What a kind of clones has in common: copies and pickles are such clones too, whatever the module's class does."""

    _precc_kind: type["SharedClone"]

    def __init_subclass__(cls, **options: Any) -> None:
        """Classes of clones are none of the user's: theirs may register, or want arguments."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _reduced(self, pickled=True)

    def __copy__(self) -> nn.Module:
        return _copied(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return _copied(self, memo)

    def __setstate__(self, state: Any) -> None:
        ours = _ours(self)
        base: Any = base_of(self)
        base.__setstate__(self, state)
        self.__dict__.update(ours)


_Clone = TypeVar("_Clone", bound=SharedClone)


def clone(module: nn.Module) -> nn.Module:
    """A module of the same class that shares everything but the hooks' registries and its own flags."""
    return _with_state(_new(type(module)), module)


def clone_as(kind: type[_Clone], module: nn.Module) -> _Clone:
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


def _reduced(module: SharedClone, *, pickled: bool) -> tuple[Any, ...]:
    """How a clone of `clone_as` is copied and pickled; its class has no name to be found by.

    What is ours travels beside the state, of which a class may leave out what it does not know.
    """
    ours = _ours(module)
    state: Any = module.__dict__
    if pickled or not is_parametrized(module):  # such a module has a state for copies alone
        state = base_of(module).__getstate__(module)  # a recurrent layer leaves weak references out
    if isinstance(state, dict):
        state = {name: value for name, value in state.items() if name not in ours and name != "_compiled_call_impl"}
    return _bare, (type(module)._precc_kind, base_of(module), ours), state


def _ours(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in module.__dict__.items() if name.startswith("_precc_")}


def _copied(module: SharedClone, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a clone of `clone_as`, deep where there is a memo; that of the module's own class may be no clone."""
    make, arguments, state = _reduced(module, pickled=False)
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


def _bare(kind: type[_Clone], base: type[nn.Module], ours: dict[str, Any] | None = None) -> _Clone:
    classes: Any = (kind, base)
    combined: type[_Clone] = _combined(*classes)
    new = _new(combined)
    new.__dict__.update(ours or {})
    return new


@cache
def _combined(kind: Any, base: Any) -> Any:
    name = "Precision" + base.__name__
    return type(base)(name, (kind, base), {"__module__": base.__module__, "_precc_base": base, "_precc_kind": kind})
