"""Loss curves of a tiny Llama in fp32 and in lower precisions: the example, with the machine named. 3 minutes.

Runs examples/tiny_llama_shakespeare.py, with its options, and writes benchmarks/results/tiny_llama_shakespeare.json.

usage: python benchmarks/tiny_llama_shakespeare.py [--seeds N] [--steps N] [--data FILE]
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from environment import environment

from precc.files import write_whole

NAME = "tiny_llama_shakespeare"
HERE = Path(__file__).resolve().parent


def main() -> None:
    with TemporaryDirectory() as folder:
        example = HERE.parent / "examples" / f"{NAME}.py"
        subprocess.run([sys.executable, str(example), *sys.argv[1:], "--out", folder], check=True)
        curves = json.loads((Path(folder) / f"{NAME}.json").read_text())
    document = {**environment(), **curves}
    write_whole(HERE / "results" / f"{NAME}.json", (json.dumps(document, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
