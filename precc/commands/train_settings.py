"""What a training on the command line was started with, kept beside what it wrote."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

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
        lr: learning rate, or the first radius.
        epochs: after which it ends; None: after the steps.
        steps: likewise.
        seed: of torch.
        backend: of `precc.compile`.
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

    def save(self, path: Path) -> None:
        """Write them to a file, whole or not at all."""
        write_whole(path, (json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n").encode())

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
        return cls(**document)
