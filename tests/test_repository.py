"""Checks of the repository itself: doctests, direction of imports, packaging, one checkout."""

import ast
import doctest
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import precc

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"precc": ROOT / "precc"} | {f"precc.{name}": ROOT / name for name in ("passes", "backends", "models")}

#: The modules and the folders on top, which may import all; everything else in precc/ is core.
TOP = {"precc", *(f"precc.{name}" for name in ("__main__", "api", "cli", "demo"))}
TOP_FOLDERS = {"by_hand", "commands"}


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            yield ".".join((package, *parts)), path


MODULES = dict(modules())


def layer(module: str) -> str:
    if module in TOP:
        return "top"
    second = module.split(".")[1] if "." in module else ""
    if second in TOP_FOLDERS:
        return "top"
    return second if second in {"passes", "backends", "models"} else "core"


def upward_imports(module: str, source: str) -> list[str]:
    """Imports that go against core <- passes, backends, models <- top."""
    allowed = {"core", layer(module)} if layer(module) != "top" else {"core", "passes", "backends", "models", "top"}
    imported = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            imported.append(str(node.module))
    ours = [name for name in imported if name.split(".")[0] == "precc"]
    return [name for name in ours if layer(name) not in allowed]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "precc.__main__"])
def test_examples_in_docstrings(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(module))
    assert outcome.failed == 0


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    assert upward_imports(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("precc.plan", "from precc.passes.roles import Roles"),
        ("precc.session", "from precc.api import compile"),
        ("precc.passes.roles", "import precc.backends.inductor"),
        ("precc.backends.reference", "from precc.passes import rounding_pipeline"),
        ("precc.models.lenet5", "from precc import TrustRegion"),
    ],
)
def test_the_check_of_imports_sees_a_planted_one(module: str, line: str) -> None:
    assert upward_imports(module, line)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("precc.devices.")])
def test_devices_know_no_cost(module: str) -> None:
    """Costs are read off figures of devices, which say nothing of plans."""
    assert "precc.cost" not in MODULES[module].read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("precc.updates.")])
def test_updates_know_no_controllers(module: str) -> None:
    """Controllers round updates; what they round with is below them."""
    assert "precc.control" not in MODULES[module].read_text(encoding="utf-8")


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_answers(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))


def test_all_packages_are_packaged() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(name for name, path in MODULES.items() if path.name == "__init__.py")


def test_all_modules_come_from_one_checkout() -> None:
    for name in MODULES:
        if name != "precc.__main__":
            assert Path(str(importlib.import_module(name).__file__)).is_relative_to(ROOT)


def test_public_names_are_importable() -> None:
    for name in precc.__all__:
        assert getattr(precc, name) is not None
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert precc.__version__ == version


def test_torch_is_pinned_and_triton_is_not() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert pins == ["torch==2.13.0"]


#: First precc itself, without optional packages; then what it does not load, each in a fork that has nothing else.
EACH_FIRST = """
import importlib, os, sys
optional = [
    *("onnx", "onnx_ir", "onnxscript", "onnxruntime", "ml_dtypes", "plotly", "pandas", "pyarrow"),
    *("tensorboard", "wandb", "mlflow", "PIL", "shtab"),
]
sys.modules.update(dict.fromkeys(optional))
import precc, precc.cli
for name in optional:
    del sys.modules[name]
for name in sys.argv[1:]:
    if name not in sys.modules:
        child = os.fork()
        if not child:
            importlib.import_module(name)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{name} cannot be imported first")
"""


def test_any_module_can_be_imported_first_and_needs_no_optional_package() -> None:
    names = [name for name in MODULES if name != "precc.__main__"]
    run = subprocess.run([sys.executable, "-c", EACH_FIRST, *names], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
