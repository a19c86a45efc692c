"""Run the Python of README and of the pages in docs/: the blocks of one page after the other, in one namespace."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional as F

from precc.models.lenet5 import LeNet5, example_inputs

__all__ = ["DOCS", "README", "ROOT", "blocks_of", "names_of_a_page", "pages", "run"]

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"


def pages() -> list[Path]:
    """README, and those of the site."""
    return [README, *sorted(DOCS.rglob("*.md"))]


def blocks_of(page: Path, language: str = "python") -> list[str]:
    """What stands in its fences of a language; ``""``: in those that name none."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block for named, block in fences if named == language]


def names_of_a_page() -> dict[str, Any]:
    """What pages may use without having made it; they say what it is."""
    generator = torch.Generator().manual_seed(0)
    (x,), y = example_inputs(), torch.arange(4)
    return {
        "torch": torch,
        "model": LeNet5(),
        "loader": [(x, y)],
        "loss_fn": F.cross_entropy,
        "x": x,
        "y": y,
        "w": torch.randn(40, 64, generator=generator),
        "held": torch.zeros(40, 64),
        "a": torch.randn(5, 70, generator=generator),
        "b": torch.randn(70, 6, generator=generator),
    }


def run(page: Path) -> None:
    """All blocks of a page, in a module, as Dynamo looks for one."""
    module = ModuleType(f"page_{page.stem.replace('-', '_')}")  # of its own: Dynamo remembers modules by name
    vars(module).update(names_of_a_page())
    sys.modules[module.__name__] = module
    try:
        for number, block in enumerate(blocks_of(page)):
            exec(compile(block, f"{page.name}, block {number}", "exec"), vars(module))
    finally:
        del sys.modules[module.__name__]
