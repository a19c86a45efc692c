"""The pieces of benchmarks/gpu.py that need no GPU."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from precc.backends.triton.load import launch, launches
from tests.triton_sources import DOUBLED

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def timer(run: Callable[[], object]) -> float:
    run()
    return 0.5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 1
    assert "torch finds no GPU" in capsys.readouterr().err


def test_launches_are_noted_and_run_again(gpu: ModuleType) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = torch.arange(4.0, device=device), torch.zeros(4, device=device)
    with launches() as seen:
        launch(DOUBLED, (1,), (x, y, 4))
    launch(DOUBLED, (1,), (x, y, 4))
    assert [own.source for own in gpu.of_template(seen, "test")] == [DOUBLED]
    y.zero_()
    seen[0]()
    assert torch.equal(y, 2 * x + 1)
    row = gpu.bandwidth_row("doubled", seen, 0.0, 1.0, timer)
    assert (row.measured, row.met) == (0.0, False)
    assert gpu.bandwidth_row("none", [], 0.0, 1.0, timer).measured is None


def test_a_row_is_met_by_a_right_result_alone(gpu: ModuleType) -> None:
    assert gpu.row("fast and right", 0.9, 1.0, 0.0).met
    assert not gpu.row("slow", 0.9, 0.8, 0.0).met
    assert not gpu.row("wrong", 0.9, 1.0, 1.0).met
    assert not gpu.row("nothing", 0.9, 1.0, float("nan")).met


def test_the_file(gpu: ModuleType) -> None:
    found = gpu.document([gpu.row("a", 1.0, 2.0, 0.0)], "A card", "1.2")
    assert list(found) == ["device", "driver", "versions", "rows"]
    assert found["rows"] == [{"name": "a", "wanted": 1.0, "measured": 2.0, "met": True, "error": 0.0}]
    assert gpu.result_path("NVIDIA H100 80GB HBM3").name == "gpu-nvidia-h100-80gb-hbm3.json"
    assert gpu.copy_bandwidth(16, "cpu", timer) == 2 * 16 * 2 / 0.5


def test_errors_of_the_plan_are_within_the_limit(gpu: ModuleType) -> None:
    """Of the models that are timed, in a small size, by the oracle."""
    for model, x in ((gpu.Block(64), torch.randn(2, 16, 64)), (nn.Linear(64, 64, bias=False), torch.randn(32, 64))):
        seen, error = gpu.noted(model.bfloat16(), x.bfloat16(), "reference")
        assert seen == []
        assert 0.001 < error < gpu.ERROR, error
