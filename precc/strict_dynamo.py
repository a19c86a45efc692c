"""Make what torch would do in silence an error, or not do it, while a net is captured and runs."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed, FailOnRecompileLimitHit, TorchRuntimeError, Unsupported
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree

from precc.errors import CaptureError, DeviceError, PreccError, RecompileLimitError

__all__ = ["HAS_ISOLATION", "opened_products", "strict_dynamo"]

_CONFIG = {
    "fail_on_recompile_limit_hit": True,  # or the net goes on in plain fp32
    "suppress_errors": False,  # likewise
    "allow_rnn": True,  # or a net with an LSTM is not captured at all
    "allow_empty_graphs": True,  # or code that once does no tensor operation is not captured any more
    "skip_nnmodule_hook_guards": False,  # or hooks that are added after the first call do not act
    "optimize_ddp": False,  # or a graph in DistributedDataParallel is cut in parts, whose products share slots
}

#: Graphs that a net with recurrent layers may have: one for each length of the input.
_LENGTHS = 64

#: Whether torch.compile keeps a cache apart for each entry, also for the code that follows a graph break.
HAS_ISOLATION = "isolate_recompiles" in signature(torch.compile).parameters

#: How the names of methods of `logging.Logger` begin that only tell; libraries add such as `warning_once`.
_MESSAGES = ("debug", "info", "warn")

_fast_path_lock = threading.Lock()
_fast_path_users: list[bool] = []  # what the flag was, once for each call under way


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Switch off the fused transformer layer, which Dynamo would take in eval, until the last call has ended."""
    with _fast_path_lock:
        _fast_path_users.append(_fast_path_users[0] if _fast_path_users else torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        with _fast_path_lock:
            before = _fast_path_users.pop()
            if not _fast_path_users:
                torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def opened_products(*, fused_attention: bool) -> Iterator[None]:
    """Trace fused recurrent layers as the products that they consist of, and attention unless it is to stay fused.

    Which fused kernel torch takes depends on dropout, on gradients and on the device; so would the slots.
    """
    mkldnn = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        with _no_fast_path(), nullcontext() if fused_attention else sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch._C._set_mkldnn_enabled(mkldnn)


@contextmanager
def strict_dynamo(
    name: str,
    net: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    recurrent: bool = False,
    undone: int = 0,
    counts: bool = True,
) -> Iterator[None]:
    """Run a call of a net, or of a region, under Dynamo, with errors of ours that say its name.

    Args:
        name: of what is called.
        net: or region that is called.
        args: of the call.
        kwargs: of the call.
        recurrent: allow graphs for many lengths of the input.
        undone: captures that were dropped, which Dynamo still counts.
        counts: let numbers that modules hold be symbols once they change, or one that counts its calls would need a
            graph for each; where all sizes are symbols from the first call on, so would be the number of heads.

    Raises:
        CaptureError, RecompileLimitError, DeviceError, BackendError: as `Session.call` says.
    """
    limit = max(torch._dynamo.config.recompile_limit, _LENGTHS if recurrent else 0)
    changes = {**_CONFIG, "recompile_limit": limit + undone, "allow_unspec_int_on_nn_module": counts}
    try:
        with _patched(changes), _no_fast_path():
            yield
    except FailOnRecompileLimitHit as error:
        sizes = (
            "Its recurrent layers need one for each length of the input: pad to fewer lengths"
            if recurrent
            else "Pass dynamic=True to precc.compile if its input sizes vary"
        )
        raise RecompileLimitError(
            f"{name} needs more than torch._dynamo.config.recompile_limit = {limit} graphs. {sizes}, "
            "or raise the limit; TORCH_LOGS=recompiles tells what changes. Its graphs keep working"
        ) from error
    except BackendCompilerFailed as error:
        inner = error.inner_exception
        if isinstance(inner, PreccError):
            raise inner from error
        raise CaptureError(f"{name} cannot be captured: {type(inner).__name__}: {inner}") from error
    except Unsupported as error:
        raise CaptureError(f"{name} cannot be captured: {error}") from error
    except RuntimeError as error:
        if not isinstance(error, PreccError) and "device" in str(error):
            _explain_devices(name, net, args, kwargs, error)
        if isinstance(error, TorchRuntimeError):
            raise CaptureError(f"{name} fails on these inputs: {error}") from error
        raise


def _patched(changes: dict[str, Any]) -> AbstractContextManager[Any]:
    """Dynamo's configuration with these changes, and with messages left out of captured code.

    A patch takes as long as a small product: within a call of the net, its regions find it done.
    """
    config = torch._dynamo.config
    kept: set[Any] = config.ignore_logging_functions
    quiet = logging.Logger.debug in kept or not HAS_ISOLATION
    if quiet and all(getattr(config, name) == value for name, value in changes.items()):
        return nullcontext()
    patch: AbstractContextManager[Any] = config.patch({**changes, "ignore_logging_functions": {*kept, *_messages()}})
    return patch


def _messages() -> list[Any]:
    """The logging methods that only tell: each would break a graph in two."""
    if not HAS_ISOLATION:
        return []  # torch 2.11 fails to log a configuration with functions
    return [getattr(logging.Logger, name) for name in dir(logging.Logger) if name.startswith(_MESSAGES)]


def _explain_devices(name: str, net: nn.Module, args: Any, kwargs: Any, error: Exception) -> None:
    homes = {parameter.device for parameter in net.parameters()}
    inputs = [leaf for leaf in _pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, torch.Tensor)]
    away = next((leaf for leaf in inputs if leaf.dim() and leaf.device not in homes), None)
    if len(homes) == 1 and away is not None:
        home = homes.pop()
        raise DeviceError(
            f"{name} is on {home}, but an input of shape {list(away.shape)} is on {away.device}: "
            f"move it with .to({str(home)!r})"
        ) from error
