"""Shared fixtures."""

from collections.abc import Iterator

import pytest
import torch

import precc  # noqa: F401  (the finder for precc.passes, precc.backends and precc.models)


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Each test draws the same random numbers, and sees no graph of another test."""
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()
