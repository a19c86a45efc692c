"""What net.analyze says to those who call it the wrong way, and what it does with steps that torch itself fails on."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.analysis.analysis import Analysis
from precc.errors import AnalysisError, PlanError
from tests.small_nets import Between

PLAN = precc.Uniform("e4m3", scaling="tensor").assign()


def inputs(*shape: int) -> Tensor:
    return torch.randn(shape or (64, 16), generator=torch.Generator().manual_seed(0))


def loss_of(output: Tensor) -> Tensor:
    return F.cross_entropy(output, torch.arange(len(output)) % 10)


def compiled(model: nn.Module | None = None) -> Any:
    return precc.compile(Between(torch.tanh) if model is None else model, backend="reference")


def halves(x: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(x)
    result: Tensor = torch.fft.irfft(spectrum * torch.linspace(0.5, 1, spectrum.shape[-1]), n=x.shape[-1])
    return result


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


@pytest.mark.parametrize(
    "arguments",
    [((inputs(), loss_of), {}), ((inputs(), 3), {"loss": loss_of}), ((inputs(),), {"loss": loss_of, "rows": 8})],
    ids=["loss", "labels", "rows"],
)
def test_what_the_model_does_not_take_is_refused_in_short(arguments: Any) -> None:
    args, kwargs = arguments
    with pytest.raises(AnalysisError, match=r"options=precc.AnalysisOptions\(rows=8\)") as error:
        compiled().analyze(*args, **kwargs)
    assert len(str(error.value)) < 300


class Own(nn.Module):
    """A model with a loss of its own, one of each example."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": self.a(x).square().mean(1)}


def test_a_loss_of_each_example_is_not_one_number() -> None:
    net = compiled(Own())
    with pytest.raises(AnalysisError, match=r"the model's own loss is one real number, not of shape \[64\]"):
        net.analyze(inputs())
    net(inputs())["loss"].mean().backward()
    assert net.analyze(inputs()).gradient_norm == pytest.approx(net.a.weight.grad.norm().item(), rel=0.1)


@pytest.mark.parametrize("one", ["e4m3", precc.Precision("e4m3"), precc.Precision("e4m3").format])
def test_one_candidate_is_no_sequence(one: Any) -> None:
    with pytest.raises(AnalysisError, match="candidates is a sequence, such as"):
        precc.AnalysisOptions(candidates=one)


def test_a_net_is_no_plan_and_a_module_no_slot() -> None:
    net = compiled()
    with pytest.raises(PlanError, match=r"that of a net is net.plan"):
        net.analyze(inputs(), loss=loss_of).predict(net)
    with pytest.raises(PlanError, match=r"no slot 'b': 'b' has b/fprop.input, b/fprop.weight, .*b/wgrad.input"):
        net.explain("b")
    with pytest.raises(PlanError, match=r"'a' has a/fprop.input, a/fprop.weight"):
        net.explain("a/dgrad.weight")
    with pytest.raises(PlanError, match=r"did you mean 'b/dgrad.weight'\?"):
        net.explain("b/dgrad.wieght")
