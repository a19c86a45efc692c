"""What an experiment tracker must offer."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pixels", "Sink"]

#: [height, width, 3], red, green, blue.
Pixels = NDArray[np.uint8]


@runtime_checkable
class Sink(Protocol):
    """A tracker, as a `precc.TrainingLog` writes to it. Names have slashes between parts, and any signs.

    A step is that of who counts it: those of two names need not be the same, or grow together.
    """

    def open(self) -> None:
        """Begin, or raise what is wrong: once, before all else, by the process that writes."""
        ...

    def scalar(self, name: str, value: float, step: int) -> None:
        """A number; it may be infinite or NaN."""
        ...

    def histogram(self, name: str, edges: Sequence[float], counts: Sequence[int], step: int) -> None:
        """Counts between ascending edges, of which there is one more."""
        ...

    def image(self, name: str, pixels: Pixels, step: int) -> None:
        """A picture."""
        ...

    def text(self, name: str, markdown: str, step: int) -> None:
        """A text."""
        ...

    def flush(self) -> None:
        """What belongs together was given: send it, now or soon."""
        ...

    def close(self, *, failed: bool = False) -> None:
        """Send the rest, and end what `open` began; `failed` says that an error ended the training."""
        ...
