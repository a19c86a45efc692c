"""A tracker that keeps what it is given, and can be gone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RecordingSink:
    """Entries are of (kind, name, value, step)."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, Any, int]] = []
        self.calls: list[str] = []
        self.fails: BaseException | None = None

    def open(self) -> None:
        self._call("open")

    def scalar(self, name: str, value: float, step: int) -> None:
        self._put("scalar", name, value, step)

    def histogram(self, name: str, edges: Sequence[float], counts: Sequence[int], step: int) -> None:
        assert len(edges) == len(counts) + 1
        self._put("histogram", name, (tuple(edges), tuple(counts)), step)

    def image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        self._put("image", name, pixels, step)

    def text(self, name: str, markdown: str, step: int) -> None:
        self._put("text", name, markdown, step)

    def flush(self) -> None:
        self._call("flush")

    def close(self, *, failed: bool = False) -> None:
        self._call("close failed" if failed else "close")

    def of(self, kind: str, name: str) -> list[tuple[int, Any]]:
        """Steps and values of one name."""
        return [(step, value) for own, called, value, step in self.entries if (own, called) == (kind, name)]

    def names(self, kind: str) -> set[str]:
        return {name for own, name, _, _ in self.entries if own == kind}

    def _put(self, *entry: Any) -> None:
        self._call(entry[0])
        self.entries.append(entry)

    def _call(self, what: str) -> None:
        self.calls.append(what)
        if self.fails is not None:
            raise self.fails
