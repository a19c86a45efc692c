"""Regions: modules of a net that are compiled one by one, under one plan, while the code around them runs as it is."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from precc.errors import CaptureError
from precc.open_regions import regions_are_open
from precc.session import Session
from precc.shallow_clone import SharedClone, base_of, clone, clone_as

__all__ = [
    "PrecisionRegion",
    "check_regions",
    "find_regions",
    "is_uninitialized",
    "matrices_outside",
    "with_regions",
]

_REGION = "_precc_region"


class PrecisionRegion(SharedClone):
    """A module of a net whose forward runs through graphs of its own. Made by ``precc.compile(model, regions=...)``.

    It is also an instance of the module's class, and shares the module's parameters, buffers and submodules. Hooks of
    the region itself run around its graphs, unrounded; those of modules inside are captured.
    """

    _precc_region: tuple[Session, str]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if regions_are_open():
            return base_of(self).forward(self, *args, **kwargs)
        return _run_untraced(self, args, kwargs)


def _run(region: PrecisionRegion, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    session, path = region._precc_region
    return session.call(region, args, kwargs, region=path)


#: As with a whole net, a compiler of the user's does not trace it a second time.
_run_untraced = torch.compiler.disable(_run)


def find_regions(model: nn.Module, regions: str | Sequence[str] | None) -> tuple[str, ...]:
    """Paths of the modules that globs mean, in the order of the model; a module with several paths has the first.

    A glob is matched segment by segment: ``layers.*`` means ``layers.0``, not ``layers.0.mlp``.

    Raises:
        CaptureError: a glob fits no module, or a region is the model itself, is inside another, or cannot be called.
    """
    if regions is None:
        return ()
    globs = [regions] if isinstance(regions, str) else regions
    if not isinstance(globs, Sequence) or not globs or not all(isinstance(glob, str) for glob in globs):
        raise CaptureError(f"regions is a glob on module paths, such as 'layers.*', or several, not {regions!r}")
    every = dict(model.named_modules(remove_duplicate=False))
    chosen = {id(module) for glob in globs for module in _fitting(glob, every)}
    found = {path: module for path, module in model.named_modules() if id(module) in chosen}
    for path, module in found.items():
        _check_region(path, module, found)
    return tuple(found)


def _fitting(glob: str, every: Mapping[str, nn.Module]) -> list[nn.Module]:
    """The modules that a glob means."""
    fitting = [module for path, module in every.items() if _fits(glob, path)]
    if not fitting:
        paths = [path for path in every if path]
        near = _ending(glob, paths) or get_close_matches(glob, paths, n=1)
        near = near or get_close_matches(glob.replace("*", "0"), paths, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "its modules are " + (", ".join(paths[:6]) or "none")
        raise CaptureError(
            f"regions {glob!r} fits no module of {type(every['']).__name__} ({hint}); a glob is matched segment by "
            "segment: '*' does not cross dots"
        )
    return fitting


def _fits(glob: str, path: str) -> bool:
    segments, globs = path.split("."), glob.split(".")
    return glob == path or (path != "" and len(globs) == len(segments) and all(map(fnmatchcase, segments, globs)))


def _ending(glob: str, paths: Sequence[str]) -> list[str]:
    """The glob that means modules whose paths only end as this one says; none if there are none."""
    globs = glob.split(".")
    for segments in (path.split(".") for path in paths):
        start, end = segments[: -len(globs)], segments[-len(globs) :]
        if start and all(map(fnmatchcase, end, globs)):
            return [".".join([*start, *globs])]
    return []


def _check_region(path: str, module: nn.Module, found: Mapping[str, nn.Module]) -> None:
    if not path:
        raise CaptureError("a region is the model itself: leave regions out to compile it as a whole")
    inside = {id(inner) for inner in module.modules()} - {id(module)}
    nested = next((other for other, inner in found.items() if id(inner) in inside), None)
    if nested is not None:
        raise CaptureError(f"the region {nested!r} is inside of the region {path!r}: name one of them")
    if is_uninitialized(module):
        raise CaptureError(f"the region {path!r} has no parameters before its first call: call the model once")
    if isinstance(module, torch.jit.ScriptModule):
        raise CaptureError(f"the region {path!r} is a ScriptModule, which has no Python forward to capture")
    if "forward" in module.__dict__:
        raise CaptureError(
            f"the region {path!r} has a forward of its own as an attribute, which a compiled region would not run: "
            "take it away, or name modules inside"
        )
    if type(module).forward is nn.Module.forward:
        raise CaptureError(
            f"the region {path!r} is a {type(module).__name__}, which has no forward: its children are {path + '.*'!r}"
        )


def with_regions(net: nn.Module, session: Session) -> None:
    """Put regions in the place of a net's modules, and clones in the place of the modules on the way to them.

    With regions the net has its own dictionary of submodules afterwards; the model's is unchanged.
    """
    modules = dict(net.named_modules())
    made: dict[int, nn.Module] = {}
    for path in session.options.regions:
        region = clone_as(PrecisionRegion, modules[path])
        region.__dict__[_REGION] = (session, path)
        made[id(modules[path])] = region
    if made:
        net.__dict__["_modules"] = _replaced(net, made)


def check_regions(net: nn.Module, session: Session) -> None:
    """Refuse a net in which another module stands where a region was: it would run unrounded.

    A module around the region, such as one that checkpoints it, is none of these.

    Raises:
        CaptureError: there is one.
    """
    for path in session.options.regions:
        if not _is_at(net, path, (session, path)):
            raise CaptureError(
                f"the region {path!r} was taken away or replaced after the net was compiled: change the model, and "
                "compile that"
            )


def _is_at(net: nn.Module, path: str, region: tuple[Session, str]) -> bool:
    try:
        found = net.get_submodule(path)
    except AttributeError:
        return False
    own = found.__dict__.get(_REGION)
    return own == region or (own is None and any(inner.__dict__.get(_REGION) == region for inner in found.modules()))


def _replaced(module: nn.Module, made: dict[int, nn.Module]) -> dict[str, nn.Module | None]:
    """The submodules of a module, with those in `made` for theirs; clones that this needs are added to it."""
    return {name: None if child is None else _found(child, made) for name, child in module._modules.items()}


def _found(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    if id(module) not in made:
        children = _replaced(module, made)
        if any(children[name] is not child for name, child in module._modules.items()):
            made[id(module)] = clone(module)
            made[id(module)].__dict__["_modules"] = children
        else:
            made[id(module)] = module
    return made[id(module)]


def is_uninitialized(module: nn.Module) -> bool:
    """Whether a module is lazy and was not called yet: then its class, and its parameters, are to become others."""
    return isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()


def matrices_outside(model: nn.Module, regions: Iterable[str]) -> list[str]:
    """Names of the matrices among the parameters that are in no region."""
    inside = {id(value) for path in regions for value in model.get_submodule(path).parameters()}
    every = [*model.named_parameters(remove_duplicate=False)]
    every.sort(key=lambda named: isinstance(model.get_submodule(named[0].rpartition(".")[0]), nn.Embedding))
    names: dict[int, str] = {}  # of a tied head that of its product, not that of the table
    for name, value in every:
        if id(value) not in inside and not is_lazy(value) and value.dim() >= 2:
            names.setdefault(id(value), name)
    return list(names.values())
