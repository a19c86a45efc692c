"""Shakespeare by the character: eight plays that ship with precc, or any text file of the user's."""

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from precc.errors import DataError
from precc.models.mnist import ENVIRONMENT_VARIABLE

__all__ = ["Shakespeare", "draw_windows", "load_shakespeare"]

_PLAYS = Path(__file__).resolve().parent / "data" / "shakespeare_small.txt.gz"
_FILES = ("shakespeare.txt", "shakespeare.txt.gz")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Shakespeare:
    """A text as tokens int64 [n], token i being the character ``vocabulary[i]``, and where it comes from.

    The first nine tenths are for training, the last tenth for validation; the vocabulary is that of both, sorted.
    """

    train_tokens: Tensor
    validation_tokens: Tensor
    vocabulary: str
    source: Path


def load_shakespeare(path: str | Path | None = None) -> Shakespeare:
    """The text of a file; of ``shakespeare.txt`` in ``$PRECC_DATA`` if none is given; else the shipped plays, 1 MB.

    Args:
        path: a text in UTF-8, gzipped or not.

    Raises:
        DataError: the file is missing, empty or damaged; the message names it and what was expected.
    """
    source = _PLAYS if path is None else Path(path).expanduser()
    folder = os.environ.get(ENVIRONMENT_VARIABLE)
    if path is None and folder:
        source = _file_in(Path(folder).expanduser())
    text = _read(source)
    if not text:
        raise DataError(f"{str(source)!r} is empty; expected a text")
    codes, tokens = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_inverse=True)
    train = len(tokens) - len(tokens) // 10
    whole = torch.from_numpy(tokens.astype(np.int64))
    return Shakespeare(whole[:train], whole[train:], "".join(map(chr, codes)), source)


def draw_windows(tokens: Tensor, length: int, batch: int, generator: torch.Generator) -> Tensor:
    """Pieces of a text, int64 [batch, length]: neighbouring tokens, from starts that the generator draws uniformly.

    A model of next tokens reads ``windows[:, :-1]`` and is to say ``windows[:, 1:]``.

    Raises:
        DataError: the text is shorter than a window.
    """
    if length > len(tokens):
        raise DataError(f"a window of {length} tokens does not fit in a text of {len(tokens)}")
    starts = torch.randint(len(tokens) - length + 1, (batch, 1), generator=generator)
    return tokens[starts + torch.arange(length)]


def _file_in(folder: Path) -> Path:
    for name in _FILES:
        if (folder / name).exists():
            return folder / name
    raise DataError(
        f"the folder of ${ENVIRONMENT_VARIABLE}, {str(folder)!r}, has neither {' nor '.join(_FILES)}; "
        f"name the text file, or unset {ENVIRONMENT_VARIABLE} for the plays that ship"
    )


def _read(path: Path) -> str:
    if path.is_dir():
        raise DataError(f"{str(path)!r} is a folder; name the text file")
    if not path.exists():
        raise DataError(f"the text file {str(path)!r} does not exist")
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if content.startswith(_GZIP) else content).decode("utf-8")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r} is not a text in UTF-8: {error}") from error
