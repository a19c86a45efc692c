"""Shared fixtures."""

import functools
import gc
import os
from collections.abc import Iterator

import pytest

#: Kernels run by Triton's interpreter, which is chosen when Triton is imported, as torch does; other processes compile.
os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
import torch._dynamo.guards
from torch.onnx._internal.exporter._registration import ONNXRegistry

gc.disable()  # until the tests begin: what imports and their collection make is there to stay

import precc  # noqa: E402, F401  (the finder for precc.passes, precc.backends and precc.models)
from tests.interpreted_functions import patch_once  # noqa: E402

#: It flushes the caches of the processor, of all processes, to say in a log how long guards take.
torch._dynamo.guards.profile_guard_manager = lambda *_: 0.0
torch._dynamo.config.run_gc_after_compile = False  # after each graph; below is when garbage is looked for
#: From the sources of all translations, half a second in each export; precc adds none of its own.
ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
patch_once()


def pytest_collection_finish() -> None:
    """Garbage is not looked for among what stays, and seldom: it was a tenth of the time of the tests.

    Tests of what is freed collect by themselves.
    """
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


def pytest_unconfigure() -> None:
    """At the end all is freed, as libraries see to what is not."""
    gc.enable()
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Each test draws the same random numbers, and sees no graph of another test."""
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()
