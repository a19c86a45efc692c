"""The pages in docs/: their Python runs, their links lead somewhere, the reference names all that is public."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

import precc
from precc.backends import BACKENDS
from precc.commands import COMMANDS
from precc.commands.parser import command_parser
from precc.plan import PrecisionPlan
from tests.pages import DOCS, ROOT, blocks_of, pages, run

TUTORIAL = DOCS / "tutorial.md"

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
def test_the_code_of_a_page(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(page)
    printed = set(_words(capsys.readouterr().out))
    if page == TUTORIAL:
        for shown in blocks_of(page, ""):
            words = _words(shown)
            found = [word in printed for word in words]
            assert sum(found) >= 0.8 * len(found), f"it shows {shown!r}, and prints {sorted(printed)}"


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]{3,}", text)


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
    paths = re.findall(r"`((?:precc|passes|backends|models|benchmarks|examples|tests|docs)/[\w./]*(?:\.\w+|/))`", text)
    assert [name for name in paths if not (ROOT / name).exists()] == []
    links = [own.partition("#")[0] for own in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in own]
    assert [own for own in links if own and not (page.parent / own).exists()] == []


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_blocks_parse_and_nothing_is_fetched(page: Path) -> None:
    for block in blocks_of(page):
        ast.parse(block)
    assert re.findall(r"<(?:script|img|iframe|link)\b", page.read_text(encoding="utf-8")) == []


def test_commands_that_pages_show_are_ones() -> None:
    parser = command_parser(precc.__version__)
    fences = [fence for page in pages() for fence in blocks_of(page, "")]
    shown = [line for fence in fences for line in fence.splitlines() if line.startswith("precc ")]
    assert len(shown) > 10
    for line in shown:
        parser.parse_args(shlex.split(line, comments=True)[1:])


def test_the_page_of_commands_has_every_command() -> None:
    table = (DOCS / "guide" / "commands.md").read_text(encoding="utf-8").partition("## MODEL")[0]
    named = {name.partition(" ")[0] for name in COMMANDS}
    assert {name for name in named if f"`precc {name}" not in table} == set()


def test_every_page_is_in_the_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [name for page in DOCS.rglob("*.md") if (name := str(page.relative_to(DOCS))) not in config] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make docs`` builds, where no connection can be opened."""
    folder, view = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("view")
    arguments = ["mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:precc", "-c", _OFFLINE, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "NO_MKDOCS_2_WARNING": "1",
            "PRECC_DOCS_VIEW": str(view),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("INFO ")]
    return folder


#: Runs a module as ``python -m`` does, in a process that cannot connect.
_OFFLINE = """
import runpy, socket, sys
def refuse(*_):
    raise OSError("the build opened a connection")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


_ELSEWHERE = (
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//""",
    r"""<link\b[^>]*\bhref=["']?(?:https?:)?//""",
    r"""url\(["']?(?:https?:)?//""",
)


def test_the_site_fetches_nothing(site: Path) -> None:
    built = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(built) > len(pages())
    for page in built:
        text = page.read_text(encoding="utf-8")
        assert [found[0] for pattern in _ELSEWHERE if (found := re.search(pattern, text))] == [], page


def test_formulas_are_mathml(site: Path) -> None:
    page = (site / "mathematics" / "error-model.html").read_text(encoding="utf-8")
    assert page.count("<math ") > 20
    assert "arithmatex" not in page


def test_the_reference_says_what_docstrings_say(site: Path) -> None:
    page = (site / "reference" / "controllers.html").read_text(encoding="utf-8")
    assert 'id="precc.TrustRegion"' in page
    assert "First-order trust region with dynamic precision" in page


def _all_of(folder: Path) -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md")))
