"""The README's Python runs as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from precc import PrecisionPlan
from precc.models.lenet5 import LeNet5, example_inputs

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_code_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (x,), y = example_inputs(), torch.arange(4)
    names: dict[str, Any] = {"model": LeNet5(), "loader": [(x, y)], "loss_fn": F.cross_entropy, "x": x, "y": y}
    names |= {
        "torch": torch,
        "w": torch.randn(40, 64),
        "held": torch.zeros(40, 64),
        "a": torch.randn(5, 70),
        "b": torch.randn(70, 6),
    }
    (document,) = re.findall(r"```json\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    plan = PrecisionPlan.from_json(document)
    assert PrecisionPlan.from_json(plan.to_json()) == plan
    assert len(plan.slots) == len(plan.accumulators) == 2
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 12
    for block in blocks:
        exec(block, names)
    assert {entry.name for entry in tmp_path.iterdir()} == {
        *("net.onnx", "net.onnx.precc.json", "net.bits.json", "plan.json", "run.pt", "step.precc", "training.pt")
    }


def test_results_that_the_readme_names_are_there() -> None:
    named = set(re.findall(r"benchmarks/results/[\w.]+\w", README.read_text(encoding="utf-8")))
    assert named
    assert [name for name in sorted(named) if not (README.parent / name).exists()] == []
