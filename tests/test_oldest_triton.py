"""The kernels' tests again, with the oldest Triton that will do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from precc.backends.triton.toolchain import OLDEST

ROOT = Path(__file__).resolve().parent.parent
#: With the package ``triton`` in it; `make .venv-triton36` makes it.
FOLDER = Path(os.environ.get("PRECC_TRITON_36") or ROOT / ".venv-triton36")
#: Others that run or compile kernels.
OTHERS = ["cast_cache", "delayed_scaling", "gpu_benchmark", "kernels_command", "pack_saved"]
FILES = sorted(path.name for own in ("triton_*", *OTHERS) for path in (ROOT / "tests").glob(f"test_{own}.py"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / "triton").is_dir(),
        reason=f"no Triton {'.'.join(map(str, OLDEST))} in {FOLDER}: `make .venv-triton36`, or set PRECC_TRITON_36",
    ),
]


def oldest() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), *filter(None, sys.path)])}


def test_it_is_the_oldest() -> None:
    command = [sys.executable, "-c", "import triton; print(triton.__version__)"]
    said = subprocess.run(command, env=oldest(), capture_output=True, text=True, check=True).stdout
    assert tuple(map(int, said.split(".")[:2])) == OLDEST


@pytest.mark.parametrize("name", FILES)
def test_kernels(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", f"tests/{name}"]
    done = subprocess.run(command, cwd=ROOT, env=oldest(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
