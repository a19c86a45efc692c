"""The data that ships, folders of the user's, and what is wrong with a damaged one."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from precc.errors import DataError
from precc.models.lenet5 import LeNet5, example_inputs
from precc.models.mnist import ENVIRONMENT_VARIABLE, load_mnist

IDX = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


@pytest.fixture
def arrays() -> dict[str, np.ndarray[Any, Any]]:
    draw = np.random.default_rng(0)
    return {
        "x_train": draw.integers(0, 256, (6, 28, 28), dtype=np.uint8),
        "y_train": np.arange(6, dtype=np.uint8),
        "x_test": draw.integers(0, 256, (3, 28, 28), dtype=np.uint8),
        "y_test": np.arange(3, dtype=np.uint8),
    }


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_the_shipped_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    mnist = load_mnist()
    assert mnist.train_images.shape == (5000, 1, 28, 28)
    assert mnist.test_images.shape == (1000, 1, 28, 28)
    assert mnist.train_labels.bincount().tolist() == [500] * 10
    assert mnist.test_labels.bincount().tolist() == [100] * 10
    assert abs(mnist.train_images.mean().item()) < 0.05
    assert abs(mnist.train_images.std().item() - 1) < 0.05


@pytest.mark.parametrize("form", ["npz", "idx", "gz"])
def test_folders_of_the_users(
    form: str, arrays: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "npz":
        np.savez(tmp_path / "mnist.npz", **arrays)
    for name, file in IDX.items():
        if form == "idx":
            (tmp_path / file).write_bytes(idx(arrays[name]))
        elif form == "gz":
            (tmp_path / f"{file}.gz").write_bytes(gzip.compress(idx(arrays[name])))
    by_folder = load_mnist(tmp_path)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    for mnist in (by_folder, load_mnist()):
        assert mnist.train_labels.tolist() == [0, 1, 2, 3, 4, 5]
        pixels = mnist.test_images * 0.3081 + 0.1307
        assert torch.equal((pixels * 255).round().to(torch.uint8)[:, 0], torch.from_numpy(arrays["x_test"]))


def test_missing_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent' does not exist"):
        load_mnist(tmp_path / "absent")
    with pytest.raises(DataError, match="is a file; name the folder that holds it"):
        load_mnist(__file__)
    with pytest.raises(DataError, match=r"neither mnist\.npz nor train-images-idx3-ubyte nor train-images.*\.gz"):
        load_mnist(tmp_path)


def test_damaged_archives(arrays: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    path.write_bytes(b"not a zip file")
    with pytest.raises(DataError, match=r"mnist\.npz' is not a readable npz file"):
        load_mnist(tmp_path)
    np.savez(path, x_train=arrays["x_train"])
    with pytest.raises(DataError, match=r"lacks an array: expected x_train, y_train"):
        load_mnist(tmp_path)
    np.savez(path, **{**arrays, "x_test": arrays["x_test"][:, :27]})
    with pytest.raises(DataError, match=r"x_test is uint8\[3, 27, 28\], expected uint8\[n, 28, 28\]"):
        load_mnist(tmp_path)
    np.savez(path, **{**arrays, "y_train": arrays["y_train"] + 9})
    with pytest.raises(DataError, match="y_train is not one digit for each of the 6 images"):
        load_mnist(tmp_path)
    np.savez_compressed(path, **arrays)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"mnist\.npz"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "header", "kind", "gzip"])
def test_damaged_idx_files(damage: str, arrays: dict[str, Any], tmp_path: Path) -> None:
    for name, file in IDX.items():
        (tmp_path / file).write_bytes(idx(arrays[name]))
    victim = tmp_path / IDX["x_test"]
    content = victim.read_bytes()
    if damage == "cut":
        victim.write_bytes(content[:-1])
    elif damage == "header":
        victim.write_bytes(content[:6])
    elif damage == "kind":
        victim.write_bytes((tmp_path / IDX["y_test"]).read_bytes())
    else:
        victim.unlink()
        victim = victim.with_name(victim.name + ".gz")
        victim.write_bytes(gzip.compress(content)[:-20])
    with pytest.raises(DataError, match="t10k-images"):
        load_mnist(tmp_path)


def test_lenet5_is_the_size_that_it_says() -> None:
    model = LeNet5()
    assert sum(parameter.numel() for parameter in model.parameters()) == 61_706
    assert model(*example_inputs(2)).shape == (2, 10)
    assert torch.equal(example_inputs()[0], example_inputs()[0])
