"""What net.analyze says to those who call it the wrong way, and what it does with steps that torch itself fails on."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.analysis.analysis import Analysis
from precc.errors import AnalysisError

PLAN = precc.Uniform("e4m3", scaling="tensor").assign()


def inputs(*shape: int) -> Tensor:
    return torch.randn(shape or (64, 16), generator=torch.Generator().manual_seed(0))


def loss_of(output: Tensor) -> Tensor:
    return F.cross_entropy(output, torch.arange(len(output)) % 10)


class Between(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.function, self.a, self.b = function, nn.Linear(16, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(self.function(self.a(x)))
        return logits


def compiled(model: nn.Module | None = None) -> Any:
    return precc.compile(Between(torch.tanh) if model is None else model, backend="reference")


def halves(x: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(x)
    return torch.fft.irfft(spectrum * torch.linspace(0.5, 1, spectrum.shape[-1]), n=x.shape[-1])


def test_transforms_of_real_numbers() -> None:
    found = compiled(Between(halves)).analyze(inputs(), loss=loss_of)
    assert 1 / 1.7 < found.predict(PLAN).gradient / found.measure(PLAN, 6).gradient < 1.7


def test_copies_of_an_analysis_are_files(tmp_path: Path) -> None:
    found = compiled().analyze(inputs(), loss=loss_of)
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(AnalysisError, match=r"analysis.save\(path\)"):
            copied(found)
    assert copy.copy(found).measure(PLAN, 2).gradient > 0
    found.save(tmp_path / "a")
    assert copy.deepcopy(Analysis.load(tmp_path / "a")).predict(PLAN).gradient > 0


def test_inputs_of_another_dtype_are_named() -> None:
    with pytest.raises(AnalysisError, match=r"an input of shape \[64, 16\] is torch.float64: convert it with .to"):
        compiled().analyze(inputs().double(), loss=loss_of)
