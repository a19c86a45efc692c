"""Shows the package to the reference as a wheel has it: passes/, backends/ and models/ inside of precc/."""

import os
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: As mkdocs.yml names it; builds at one time need one each.
VIEW = ROOT / os.environ.get("PRECC_DOCS_VIEW", "build/view") / "precc"
BESIDE = ("passes", "backends", "models")


def on_startup(**_: Any) -> None:
    """Make the folder: what is not there when the reference is set up is not searched."""
    VIEW.mkdir(parents=True, exist_ok=True)


def on_pre_build(**_: Any) -> None:
    """Copy the sources as they are now: links would be followed to where the folders are not."""
    shutil.rmtree(VIEW, ignore_errors=True)
    for source, target in ((ROOT / "precc", VIEW), *((ROOT / name, VIEW / name) for name in BESIDE)):
        shutil.copytree(source, target, ignore=_all_but_python)


def _all_but_python(folder: str, names: list[str]) -> list[str]:
    return [
        name for name in names if name == "__pycache__" or not ((Path(folder) / name).is_dir() or name.endswith(".py"))
    ]
