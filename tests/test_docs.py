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
    if page == TUTORIAL:
        _is_printed(blocks_of(page, ""), capsys.readouterr().out)


def _is_printed(shown: list[str], printed: str) -> None:
    """Line by line, but for what varies from machine to machine: see `_alike`; numbers are near, but for some."""
    found: dict[str, list[list[float]]] = {}
    for line in printed.splitlines():
        found.setdefault(_alike(line), []).append(_numbers(line))
    lines = [line for block in shown for line in block.splitlines() if line not in ("", "...")]
    assert [line for line in lines if _alike(line) not in found] == []
    near = [any(_near(_numbers(line), own) for own in found[_alike(line)]) for line in lines]
    assert sum(near) >= 0.8 * len(near), [line for line, own in zip(lines, near, strict=True) if not own]


def test_lines_that_are_stale_are_seen() -> None:
    now = "worst  fc2 6.56%, fc1 4.08%; 84% of the squares\n{'e4m5': 6, 'float16': 4}"
    _is_printed(["worst  fc1 5.9%, conv2 4.9%; 80% of the squares\n...\n{'e4m5': 5, 'e5m2': 3, 'fp32': 2}\n"], now)
    for stale in ("worst  fc2 6.56%, fc1 4.08%; 84% of all", "worst  fc2 6.56%; 84% of the squares", "worst  fc2"):
        with pytest.raises(AssertionError, match="worst"):
            _is_printed([stale], now)
    with pytest.raises(AssertionError, match="65.6"):
        _is_printed(["worst  fc2 65.6%, fc1 4.08%; 84% of the squares"], now)


_NUMBER = re.compile(r"(?<![A-Za-z0-9_])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")
#: Which layer is worst, and which format is chosen, differs where sums are in another order; so do columns.
_VARIES = (
    (r"\b(?:conv|fc)\d\b", "LAYER"),
    (r"\b(?:bfloat16|bf16|fp\d+|float\d+\w*|e\d+m\d+)\b", "FORMAT"),
    (r"(?:'FORMAT': [-+\d]+(?:, )?)+", "FORMATS"),
    (_NUMBER.pattern, "N"),
    (r"by (?:inductor|cpp|reference)", "by BACKEND"),
    (r"\s+", " "),
)


def _alike(line: str) -> str:
    for pattern, own in _VARIES:
        line = re.sub(pattern, own, line.strip())
    return line


def _numbers(line: str) -> list[float]:
    return [float(own.replace(",", "")) for own in _NUMBER.findall(line)]


def _near(shown: list[float], printed: list[float]) -> bool:
    """Within a factor of 3, those that may be any but a deviation from 0 left out: errors of the loss have any sign."""
    pairs = zip(shown, printed, strict=False)
    return all(abs(a) < 0.01 or abs(b) < 0.01 or 1 / 3 < a / b < 3 for a, b in pairs)


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


def _built(folder: Path, view: Path) -> Path:
    """What ``make docs`` builds, where no connection can be opened."""
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


def test_the_site(tmp_path: Path) -> None:
    """All of it in one test, as parallel tests would build it again each."""
    site = _built(tmp_path / "site", tmp_path / "view")
    _fetches_nothing(site)
    error_model = (site / "mathematics" / "error-model.html").read_text(encoding="utf-8")
    assert error_model.count("<math ") > 20
    assert "arithmatex" not in error_model
    reference = (site / "reference" / "controllers.html").read_text(encoding="utf-8")
    assert 'id="precc.TrustRegion"' in reference
    assert "First-order trust region with dynamic precision" in reference, "what the docstring says"


def _fetches_nothing(site: Path) -> None:
    built = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(built) > len(pages())
    for page in built:
        text = page.read_text(encoding="utf-8")
        assert [found[0] for pattern in _ELSEWHERE if (found := re.search(pattern, text))] == [], page


def _all_of(folder: Path) -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md")))
