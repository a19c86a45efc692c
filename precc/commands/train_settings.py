"""What a training on the command line was started with, kept beside what it wrote."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_type_hints

from precc.errors import DataError
from precc.files import write_whole

__all__ = ["TrainSettings"]

_FORMAT = "precc training"


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Of one training.

    Args:
        model: its factory, with a whole path if it is in a file.
        weights: that it started from.
        controller: name of the class; None: the plan stays.
        plan: the first one, as JSON; None: nothing is rounded.
        optimizer: its name; of a controller that is one, empty.
        lr: learning rate, or the first radius; finite and above 0.
        epochs: after which it ends; None: after the steps.
        steps: likewise.
        seed: of torch.
        backend: of `precc.compile`.

    Raises:
        DataError: one is not what it must be.
    """

    model: str
    weights: str | None
    controller: str | None
    plan: str | None
    optimizer: str
    lr: float
    epochs: int | None
    steps: int | None
    seed: int
    backend: str

    def __post_init__(self) -> None:
        """Refuse what no command line writes, but an edited file may have."""
        kinds = {**get_type_hints(type(self)), "lr": int | float}
        for entry in fields(self):
            own = getattr(self, entry.name)
            if not isinstance(own, kinds[entry.name]) or isinstance(own, bool):
                raise DataError(f"{entry.name} is {own!r:.60}")
        for name in ("epochs", "steps"):
            own = getattr(self, name)
            if own is not None and own < 1:
                raise DataError(f"{name} is a number of at least 1, not {own}")
        if self.epochs is None and self.steps is None:
            raise DataError("neither epochs nor steps say when it ends")
        if not 0 < self.lr < math.inf:
            raise DataError(f"lr is a finite number above 0, not {self.lr}")
        if not 0 <= self.seed < 2**63:
            raise DataError(f"seed is a number from 0 to 2**63 - 1, not {self.seed}")

    def save(self, path: Path) -> None:
        """Write them to a file, whole or not at all."""
        write_whole(path, (json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n").encode())

    def save_first(self, path: Path) -> None:
        """The same, where no file is.

        Raises:
            FileExistsError: there is one.
        """
        with path.open("x", encoding="utf-8"):
            pass
        self.save(path)

    @classmethod
    def load(cls, path: Path) -> "TrainSettings":
        """What `save` wrote.

        Raises:
            DataError: the file is missing, or holds no settings.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{str(path.parent)!r} has no training that can be resumed: {error}") from error
        except ValueError as error:
            raise DataError(f"{str(path)!r} is damaged: {error}") from error
        names = {entry.name for entry in fields(cls)}
        if not isinstance(document, dict) or document.pop("format", None) != _FORMAT or set(document) != names:
            raise DataError(f"{str(path)!r} is not of a training of precc")
        try:
            return cls(**document)
        except DataError as error:
            raise DataError(f"{str(path)!r} is not of a training of precc: {error}") from error
