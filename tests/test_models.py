"""The models, and MNIST: the subset that ships, folders of the user's, and what is wrong with a damaged one."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from precc.errors import DataError
from precc.models import gpt, lenet5, lstm, mlp, resnet20
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


MODELS = [
    (mlp, mlp.MLP, 109_386, (2, 10)),
    (lenet5, lenet5.LeNet5, 61_706, (2, 10)),
    (resnet20, resnet20.ResNet20, 269_722, (2, 10)),
    (gpt, gpt.GPT, 826_112, (2, 128, 128)),
    (lstm, lstm.LSTMLanguageModel, 297_088, (2, 64, 128)),
]


@pytest.mark.parametrize(
    ("module", "model_class", "parameters", "shape"), MODELS, ids=["mlp", "lenet5", "resnet20", "gpt", "lstm"]
)
def test_models_are_the_size_that_they_say(
    module: Any, model_class: type[nn.Module], parameters: int, shape: tuple[int, ...]
) -> None:
    model = model_class()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert f"{parameters:,} parameters" in str(model_class.__doc__)
    assert model(*module.example_inputs(2)).shape == shape
    assert torch.equal(module.example_inputs()[0], module.example_inputs()[0])


@pytest.mark.parametrize(
    "model", [gpt.GPT(context=16, width=32), lstm.LSTMLanguageModel(width=32)], ids=["gpt", "lstm"]
)
def test_language_models_do_not_see_the_future(model: nn.Module) -> None:
    first = torch.randint(128, (2, 16))
    second = first.clone()
    second[:, 9:] = (first[:, 9:] + 1) % 128
    assert torch.equal(model(first)[:, :9], model(second)[:, :9])
    assert not torch.equal(model(first)[:, 9], model(second)[:, 9])


@pytest.mark.parametrize("make", [gpt.GPT, lstm.LSTMLanguageModel], ids=["gpt", "lstm"])
def test_dropout_acts_in_training_only(make: Any) -> None:
    model = make(width=32, dropout=0.5)
    tokens = torch.randint(128, (2, 16))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_gpt_is_checked_and_tied() -> None:
    model = gpt.GPT(context=8, width=32)
    assert model.head.weight is model.token_embedding.weight
    with pytest.raises(ValueError, match="a sequence of 9 tokens is longer than the context, 8"):
        model(torch.zeros(1, 9, dtype=torch.long))
    with pytest.raises(ValueError, match="width 30 is no multiple of heads 4"):
        gpt.GPT(width=30)
