"""Real models train under precc: as plain PyTorch in full precision, in a mixed plan alike on all backends, in e4m3."""

import copy

import pytest
import torch
from torch import Tensor, nn

import precc
from tests.zoo import ZOO, Entry

STEPS = 5
IN_EVERY_RUN = ("llama", "recommender")  #: trained by Inductor too; the others in `make test-all`

#: Of others, with the loss outside of the net, as those of our own models are; trained in `make test-all`.
VARIANTS = ("gpt2-logits", "llama-logits", "bert-states")

#: Of kinds of which another model always trains: decoders as llama, an encoder as vit,
#: an encoder with a decoder as whisper, a LSTM.
ALIKE = ("qwen3", "gpt2", "t5", "lstm", "bert-classifier")

#: Scaled e4m3 forward, e5m2 for gradients, the products of two activations in bfloat16.
MIXED = (
    precc.Rule(operand="grad_output", format="e5m2", scaling=precc.Scaling("tensor", scale_format="fp32")),
    precc.Rule(operand="[ab]", format="bfloat16", required=False),
)
SCALED = precc.Uniform("e4m3", scaling=precc.Scaling("tensor", scale_format="fp32")).assign()


def _unless_slow(name: str, quick: bool) -> object:
    return name if quick else pytest.param(name, marks=pytest.mark.slow)


def batches(entry: Entry) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [entry.inputs(2, generator) for _ in range(STEPS)]


def model_of(entry: Entry) -> nn.Module:
    torch.manual_seed(0)
    return entry.factory().train()


def loss_and_gradient(net: nn.Module, entry: Entry, batch: dict[str, Tensor]) -> tuple[float, Tensor]:
    """Of one batch, with the dropout masks of one seed; the gradient as one vector."""
    torch.manual_seed(2)
    net.zero_grad()
    loss = entry.loss(net(**batch))
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def train(net: nn.Module, entry: Entry, data: list[dict[str, Tensor]], learning_rate: float = 1e-3) -> list[float]:
    """The losses of steps by AdamW."""
    optimizer = torch.optim.AdamW(net.parameters(), learning_rate)
    losses = []
    for batch in data:
        losses.append(loss_and_gradient(net, entry, batch)[0])
        optimizer.step()
    return losses


def assert_close(first: tuple[float, Tensor], second: tuple[float, Tensor], tolerance: float) -> None:
    """Losses relatively, gradients in the 2-norm relative to the second."""
    assert abs(first[0] - second[0]) <= tolerance * abs(second[0])
    assert (first[1] - second[1]).norm() <= tolerance * second[1].norm()


def difference(first: tuple[float, Tensor], second: tuple[float, Tensor]) -> float:
    """The larger of that of the losses and that of the gradients, both relative to the second."""
    of_losses = abs(first[0] - second[0]) / abs(second[0])
    return max(of_losses, ((first[1] - second[1]).norm() / second[1].norm()).item())


def effect_of_noise(noisy: nn.Module, net: nn.Module, entry: Entry, batch: dict[str, Tensor]) -> float:
    """The largest difference that 8 draws of noise in the parameters make; they are of 2 ulps, as sums of fp32 have."""
    exact, effects = net.state_dict(), []
    noisy.load_state_dict(exact)
    plain = loss_and_gradient(noisy, entry, batch)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        noise = {name: 1 + 2.0**-22 * (2 * torch.rand(v.shape, generator=generator) - 1) for name, v in exact.items()}
        moved = {name: v * noise[name] if v.is_floating_point() else v for name, v in exact.items()}
        noisy.load_state_dict(moved)
        effects.append(difference(loss_and_gradient(noisy, entry, batch), plain))
    return max(effects)


@pytest.mark.parametrize("name", [_unless_slow(name, name not in (*VARIANTS, *ALIKE)) for name in ZOO])
def test_training(name: str) -> None:
    entry = ZOO[name]
    data = batches(entry)
    net, plain = precc.compile(model_of(entry), backend="reference"), model_of(entry)
    for batch in data[:2]:  # the same sums, but in the order of opened products
        assert_close(loss_and_gradient(net, entry, batch), loss_and_gradient(plain, entry, batch), 1e-5)
    start, graphs = copy.deepcopy(net.state_dict()), net.compilations
    net.set_plan(SCALED.under(MIXED))
    mixed, exact = train(net, entry, data), train(plain, entry, data)
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=0.1)
    net.load_state_dict(start)
    net.set_plan(precc.Uniform("e4m3").assign())
    losses = train(net, entry, data[:1] * 8, 3e-3)
    assert losses[-1] < losses[0]
    assert net.compilations == graphs, "plans are live"
    assert [note for note in net.report().notes if "in no class" in note or "does not know" in note] == []


@pytest.mark.parametrize("name", [_unless_slow(name, name in IN_EVERY_RUN) for name in ZOO])
def test_backends_agree(name: str) -> None:
    """In the mixed plan they differ by the order of fp32 sums, and where that moves a value over a boundary.

    One such value can move a gradient by 2%: the difference is no more than what noise in the parameters, of the size
    of fp32's rounding, does to one backend alone.
    """
    entry = ZOO[name]
    nets = [
        precc.compile(model_of(entry), plan=SCALED, rules=MIXED, backend=backend)
        for backend in ("reference", "inductor")
    ]
    optimizer = torch.optim.AdamW(nets[0].parameters(), 1e-3)
    for batch in batches(entry):
        nets[1].load_state_dict(nets[0].state_dict())
        first, second = (loss_and_gradient(net, entry, batch) for net in nets)
        if difference(second, first) > 1e-4:
            assert difference(second, first) <= 2 * effect_of_noise(nets[1], nets[0], entry, batch)
        optimizer.step()
