"""mypy --strict over the package as it is installed: passes/, backends/ and models/ under precc/."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_types_are_strict_and_right(tmp_path: Path) -> None:
    package = tmp_path / "precc"
    package.mkdir()
    for entry in (ROOT / "precc").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for folder in ("passes", "backends", "models"):
        (package / folder).symlink_to(ROOT / folder)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "precc"]
    command += ["--cache-dir", str(ROOT / ".mypy_cache")]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
