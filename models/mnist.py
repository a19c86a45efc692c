"""MNIST: a subset that ships with precc, or the full set from a folder of the user's."""

import gzip
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precc.errors import DataError

__all__ = ["ENVIRONMENT_VARIABLE", "Mnist", "load_mnist"]

ENVIRONMENT_VARIABLE = "PRECC_DATA"

_SUBSET = Path(__file__).resolve().parent / "data" / "mnist_small.npz"
_IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
# Mean and standard deviation of the training images, scaled to [0, 1].
_MEAN, _DEVIATION = 0.1307, 0.3081


@dataclass(frozen=True, slots=True)
class Mnist:
    """Standardised images float32 [n, 1, 28, 28] and labels int64 [n], and where they come from."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    source: Path


def load_mnist(folder: str | Path | None = None) -> Mnist:
    """The MNIST of a folder; of ``$PRECC_DATA`` if none is given; else the shipped subset of 5,000 + 1,000.

    Args:
        folder: has ``mnist.npz``, or the four IDX files, gzipped or not.

    Raises:
        DataError: a file is missing or damaged; the message names it and what was expected.
    """
    chosen = folder if folder is not None else os.environ.get(ENVIRONMENT_VARIABLE) or None
    if chosen is None:
        return _standardised(_read_npz(_SUBSET), _SUBSET)
    root = Path(chosen).expanduser()
    if root.is_file():
        raise DataError(f"{str(root)!r} is a file; name the folder that holds it")
    if not root.is_dir():
        raise DataError(f"the data folder {str(root)!r} does not exist")
    archive = root / "mnist.npz"
    if archive.exists():
        return _standardised(_read_npz(archive), archive)
    return _standardised({name: _read_idx(root, file) for name, file in _IDX_FILES.items()}, root)


def _read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        # opened here: numpy does not close a file in which it fails to find an archive
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in _IDX_FILES}
    except KeyError as error:
        raise DataError(f"{str(path)!r} lacks an array: expected {', '.join(_IDX_FILES)} ({error})") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{str(path)!r} is not a readable npz file: {error}") from error


def _read_idx(root: Path, name: str) -> np.ndarray[Any, Any]:
    plain, packed = root / name, root / f"{name}.gz"
    if not plain.exists() and not packed.exists():
        raise DataError(f"{str(root)!r} has neither mnist.npz nor {name} nor {name}.gz")
    path = plain if plain.exists() else packed
    try:
        content = path.read_bytes() if path is plain else gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}") from error
    # Two zero bytes, type 8 (unsigned byte), number of dimensions, then each size as a big-endian int32.
    dimensions = 3 if "idx3" in name else 1
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
        raise DataError(f"{str(path)!r} is not an IDX file of bytes with {dimensions} dimension(s)")
    shape = tuple(int(size) for size in np.frombuffer(content, ">i4", dimensions, 4))
    if len(content) - header != int(np.prod(shape)):
        raise DataError(f"{str(path)!r} holds {len(content) - header} bytes, but its header says {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _standardised(arrays: dict[str, np.ndarray[Any, Any]], source: Path) -> Mnist:
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if images.ndim != 3 or images.shape[1:] != (28, 28) or images.dtype != np.uint8:
            raise DataError(
                f"{str(source)!r}: x_{part} is {images.dtype}{list(images.shape)}, expected uint8[n, 28, 28]"
            )
        if labels.shape != images.shape[:1] or not len(labels) or labels.max() > 9:
            raise DataError(
                f"{str(source)!r}: y_{part} is not one digit for each of the {len(images)} images of x_{part}"
            )
    return Mnist(
        _images(arrays["x_train"]),
        _labels(arrays["y_train"]),
        _images(arrays["x_test"]),
        _labels(arrays["y_test"]),
        source,
    )


def _images(pixels: np.ndarray[Any, Any]) -> Tensor:
    images = torch.from_numpy(pixels.astype(np.float32))[:, None] / 255.0
    return (images - _MEAN) / _DEVIATION


def _labels(labels: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64))
