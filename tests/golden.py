"""Compare a text with a file in tests/golden; PRECC_ACCEPT=1 writes the file."""

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Fail where the text is not that of the file."""
    path = FOLDER / name
    if os.environ.get("PRECC_ACCEPT") == "1":
        path.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == path.read_text(encoding="utf-8"), f"{path} differs; PRECC_ACCEPT=1 accepts the new text"
