"""The pages in docs/: their Python runs, their links lead somewhere, the reference names all that is public."""

import ast
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

import precc
from precc.backends import BACKENDS
from precc.plan import PrecisionPlan
from tests.pages import DOCS, ROOT, blocks_of, pages, run

_WITH_CODE = [page for page in pages() if page.parent != ROOT and blocks_of(page)]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def quick_nets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nets by the reference where a page names no backend: what pages say is the same, and nothing is compiled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precc, "compile", _by_reference)
    before = dict(BACKENDS)
    torch.manual_seed(0)
    yield
    BACKENDS.clear()
    BACKENDS.update(before)


def _by_reference(model: torch.nn.Module, *, backend: str = "reference", **options: object) -> precc.PrecisionModule:
    return _COMPILE(model, backend=backend, **options)


_COMPILE = partial(precc.compile)


@pytest.mark.parametrize("page", _WITH_CODE, ids=_name)
@pytest.mark.usefixtures("quick_nets")
def test_the_code_of_a_page(page: Path) -> None:
    run(page)


def test_the_plan_file_of_the_page_is_one() -> None:
    (document,) = blocks_of(DOCS / "guide" / "plan-files.md", "json")
    plan = PrecisionPlan.from_json(document)
    assert PrecisionPlan.from_json(plan.to_json()) == plan
    assert len(plan.slots) == len(plan.accumulators) == 2


def test_the_reference_has_every_public_name_once() -> None:
    named = re.findall(r"^::: precc\.(\w+)$", _all_of(DOCS / "reference"), re.MULTILINE)
    assert sorted(named) == sorted(precc.__all__)


def test_the_tables_of_the_guide_have_what_the_registries_have() -> None:
    table = (DOCS / "guide" / "backends.md").read_text(encoding="utf-8").partition("| name |")[2]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(BACKENDS)


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:precc|passes|backends|models|benchmarks|examples|tests|docs)/[\w./]*\w)`", text)
    assert [name for name in paths if not (ROOT / name).exists()] == []
    links = [own.partition("#")[0] for own in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in own]
    assert [own for own in links if own and not (page.parent / own).exists()] == []


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_blocks_parse_and_nothing_is_fetched(page: Path) -> None:
    for block in blocks_of(page):
        ast.parse(block)
    assert re.findall(r"<(?:script|img|iframe|link)\b", page.read_text(encoding="utf-8")) == []


def test_every_page_is_in_the_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [name for page in DOCS.rglob("*.md") if (name := str(page.relative_to(DOCS))) not in config] == []


def _all_of(folder: Path) -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md")))
