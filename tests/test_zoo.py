"""The zoo itself: every model builds, has the same inputs each time, and learns in plain PyTorch."""

import pytest
import torch
from torch import nn

from tests.zoo import LENGTH, ZOO, Entry, padding

EVERY = pytest.mark.parametrize("entry", ZOO.values(), ids=ZOO)


def inputs_of(entry: Entry, batch: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    return entry.inputs(batch, torch.Generator().manual_seed(seed))


@EVERY
def test_inputs_and_parameters_repeat(entry: Entry) -> None:
    first, second, other = inputs_of(entry), inputs_of(entry), inputs_of(entry, seed=1)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(entry.factory())
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))
    assert models[0].training
    assert sum(parameter.numel() for parameter in models[0].parameters()) < 300_000


@EVERY
def test_random_are_those_that_say_so(entry: Entry) -> None:
    model, inputs = entry.factory(), inputs_of(entry)
    losses = [entry.loss(model(**inputs)) for _ in range(2)]
    assert torch.equal(*losses) == (not entry.random)


@EVERY
def test_every_model_learns(entry: Entry) -> None:
    model, inputs = entry.factory(), inputs_of(entry)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = entry.loss(model(**inputs))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("batch", [1, 3, 9])
@EVERY
def test_batches_of_other_sizes(entry: Entry, batch: int) -> None:
    model = entry.factory().eval()
    with torch.no_grad():
        assert entry.loss(model(**inputs_of(entry, batch))).isfinite()


@pytest.mark.parametrize(
    ("name", "embedding", "head"),
    [
        ("gpt2", "transformer.wte", "lm_head"),
        ("llama", "model.embed_tokens", "lm_head"),
        ("t5", "shared", "lm_head"),
        ("whisper", "model.decoder.embed_tokens", "proj_out"),
        ("gpt", "token_embedding", "head"),
    ],
)
def test_embeddings_that_are_tied(name: str, embedding: str, head: str) -> None:
    model: nn.Module = ZOO[name].factory()
    assert model.get_parameter(f"{embedding}.weight") is model.get_parameter(f"{head}.weight")


def test_padding_is_on_the_side_that_is_asked_for() -> None:
    left, right = (padding(10, left=side) for side in (True, False))
    assert torch.equal(left, right.flip(1))
    assert left[:, -1].all()
    assert (LENGTH - left.sum(1)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    inputs = inputs_of(ZOO["llama"])
    assert torch.equal(inputs["labels"] == -100, inputs["attention_mask"] == 0)
