"""Steps that an analysis could take the wrong way: random operators, odd layouts, jumps, writes, numbers too large."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.errors import AnalysisError, PrecisionWarning
from precc.models.mnist import load_mnist
from tests.small_nets import Between

LABELS = torch.arange(64) % 10
PLAN = precc.PrecisionPlan(precc.Precision("e4m3", scaling=precc.Scaling("tensor", scale_format="fp32")))


def inputs(*shape: int) -> Tensor:
    return torch.randn(shape or (64, 16), generator=torch.Generator().manual_seed(0))


def loss_of(output: Tensor) -> Tensor:
    return F.cross_entropy(output, LABELS[: len(output)])


def compiled(model: nn.Module, **options: Any) -> Any:
    return precc.compile(model, backend="reference", **options)


def small() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 10))


def test_all_runs_have_the_same_masks_of_dropout() -> None:
    torch.manual_seed(1)
    layers = [nn.Linear(16, 32), nn.Dropout(0.5), nn.Linear(32, 32), nn.Dropout(0.5), nn.Linear(32, 10)]
    found = compiled(nn.Sequential(*layers)).analyze(inputs(), loss=loss_of)
    predicted, measured = found.predict(PLAN), found.measure(PLAN, 10)
    assert 1 / 1.5 < predicted.gradient / measured.gradient < 1.5
    assert max(own.normwise for own in found.forward_errors(PLAN).values()) < 0.2


def test_slots_of_a_step_whose_input_records_gradients_have_their_own_rows() -> None:
    plain, recording = (compiled(small()).analyze(x, loss=loss_of) for x in (inputs(), inputs().requires_grad_()))
    assert recording.measure(PLAN, 3) == plain.measure(PLAN, 3)


class Attention(nn.Module):
    """Heads that are put together by a view of what the kernel gives.

    Args:
        mask: added to the scores, from the model and its input.
        dropout: of the weights.
    """

    def __init__(self, mask: Callable[["Attention", Tensor], Tensor] | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.query, self.out, self.bias = nn.Linear(8, 32), nn.Linear(32, 10), nn.Linear(8, 6)
        self.mask, self.dropout = mask, dropout

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).view(len(x), 6, 2, 16).transpose(1, 2)
        mask = None if self.mask is None else self.mask(self, x)
        heads = F.scaled_dot_product_attention(q, q, q, mask, self.dropout).transpose(1, 2).reshape(len(x), 6, 32)
        logits: Tensor = self.out(heads)[:, -1]
        return logits


@pytest.mark.parametrize(
    "model",
    [
        Attention(),
        Attention(dropout=0.2),
        Attention(lambda own, x: own.bias.weight[:, :6]),
        Attention(lambda own, x: own.bias(x)[:, None].detach() * 3),
    ],
    ids=["view", "dropout", "trained mask", "mask of the input"],
)
def test_attention_as_one_op_has_any_result_mask_and_dropout(model: nn.Module) -> None:
    found = compiled(model, attention="fused").analyze(inputs(64, 6, 8), loss=loss_of)
    assert not found.findings.unknown
    assert 1 / 1.7 < found.predict(PLAN).gradient / found.measure(PLAN, 6).gradient < 1.7


@torch.library.custom_op("precc_tests::times_thirty", mutates_args=("x",))
def times_thirty(x: Tensor) -> None:
    x.mul_(30)


def written(x: Tensor) -> Tensor:
    copy = x.detach().clone()
    times_thirty(copy)
    return x + copy


def test_what_a_custom_operator_writes_is_unknown() -> None:
    with pytest.warns(PrecisionWarning, match="auto_functionalized"):
        found = compiled(Between(written)).analyze(inputs(), loss=loss_of)
    assert "a/product/fprop.weight" in found.predict(PLAN).unknown.loss


def sampled(x: Tensor, mode: str) -> Tensor:
    """Pixels at places that the values say."""
    pixels = torch.arange(64.0).reshape(1, 1, 8, 8).expand(len(x), 1, 8, 8)
    found = F.grid_sample(pixels, x.tanh().reshape(len(x), 4, 4, 2), mode=mode, align_corners=False)
    return torch.cat([x[:, :16], found.flatten(1)], 1)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("_to_copy", lambda x: x + (x * 4).long().float()),
        ("div", lambda x: x + torch.div(x, 0.25, rounding_mode="floor")),
        ("frac", lambda x: x.frac()),
        ("grid_sampler_2d", lambda x: sampled(x, "nearest")),
        ("median", lambda x: x - x.median(-1, keepdim=True).values),
    ],
)
def test_jumps_are_told(name: str, function: Callable[[Tensor], Tensor]) -> None:
    with pytest.warns(PrecisionWarning, match=f"aten.{name} jumps"):
        compiled(Between(function)).analyze(inputs(), loss=loss_of)


def test_pixels_between_others_do_not_jump() -> None:
    net = compiled(Between(lambda x: sampled(x, "bilinear")))
    assert not net.analyze(inputs(), loss=loss_of).findings.jumps


@pytest.mark.parametrize(
    "function",
    [F.normalize, lambda x: x * F.cosine_similarity(x, x.roll(1, 0))[:, None], lambda x: x / (x.norm() + 1e-6)],
    ids=["normalize", "cosine", "norm"],
)
def test_a_division_by_a_norm_does_not_jump(function: Callable[[Tensor], Tensor]) -> None:
    assert not compiled(Between(function)).analyze(inputs(), loss=loss_of).findings.jumps


def test_a_norm_that_is_compared_with_one_jumps() -> None:
    with pytest.warns(PrecisionWarning, match="aten.ge jumps"):
        compiled(Between(lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=1.0))).analyze(inputs(), loss=loss_of)


def test_random_numbers_in_the_shape_of_values_do_not_jump() -> None:
    net = compiled(Between(lambda x: x * (torch.rand_like(x) > 0.3)))
    assert not net.analyze(inputs(), loss=loss_of).findings.jumps


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda output: (output.mean(), output), "one real number, not a list or tuple: return one"),
        (lambda output: {"loss": output.mean()}, "not a dictionary: return one of its values"),
        (lambda output: None, "the loss function returned nothing"),
        (lambda output: output.mean().item(), "a number that is no tensor"),
    ],
)
def test_a_loss_that_is_no_tensor_is_refused(loss: Any, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        compiled(small()).analyze(inputs(), loss=loss)


class Keeping(nn.Module):
    """A model that writes what it computes to an attribute, in each of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.mean, self.last = small(), torch.zeros(()), torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.layers(x)
        self.mean = 0.9 * self.mean + self.last.mean()
        return self.last


def test_what_a_step_keeps_beside_its_loss_is_no_part_of_it() -> None:
    plain = compiled(small()).analyze(inputs(), loss=loss_of).predict(PLAN)
    seen: list[Any] = []

    def loss(output: Tensor) -> Tensor:
        found = loss_of(output)
        seen.extend([found.item(), output])
        return found

    model = Keeping()
    model.layers.register_forward_hook(lambda module, arguments, output: seen.append(output))
    predicted = compiled(model).analyze(inputs(), loss=loss).predict(PLAN)
    assert predicted.gradient == pytest.approx(plain.gradient, rel=0.2)  # names of nodes are seeds, too
    assert predicted.loss == pytest.approx(plain.loss, rel=0.2)
    assert not seen
    assert model.last.dim() == 0


@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_weights_that_are_computed_and_kept(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(1)
    found = compiled(nn.Sequential(norm(nn.Linear(16, 32)), nn.Tanh(), nn.Linear(32, 10))).analyze(
        inputs(), loss=loss_of
    )
    assert 1 / 1.7 < found.predict(PLAN).gradient / found.measure(PLAN, 6).gradient < 1.7


def test_an_empty_batch_has_no_errors() -> None:
    with pytest.warns(PrecisionWarning, match="gradient of Sequential is zero"):
        found = compiled(small()).analyze(inputs()[:0], loss=lambda output: output.sum())
    assert found.predict(PLAN).loss == 0.0


def test_a_measurement_is_that_of_the_step_also_under_autocast() -> None:
    found = compiled(small()).analyze(inputs(), loss=loss_of)
    plain = found.measure(PLAN, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert found.measure(PLAN, 3) == plain


@pytest.mark.parametrize("factor", [1e-22, 1e18])
def test_small_and_large_values_have_finite_means(factor: float) -> None:
    model = small()
    model[0].weight.data.div_(factor)
    estimate = compiled(model).analyze(inputs() * factor, loss=loss_of).predict(PLAN)
    expected = compiled(small()).analyze(inputs(), loss=loss_of).predict(PLAN)
    assert estimate.loss == pytest.approx(expected.loss, rel=0.1)
    assert math.isfinite(estimate.loss_mean)


def test_derivatives_that_are_not_finite_are_told() -> None:
    model = small()
    model[0].weight.data.div_(1e25)
    with pytest.warns(PrecisionWarning, match="derivatives at 1 slots, such as 0/product/fprop.weight, are infinite"):
        compiled(model).analyze(inputs() * 1e25, loss=loss_of)


WEIGHTS = 0.5 + torch.rand(10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "loss",
    [
        lambda output: F.cross_entropy(output, LABELS, weight=WEIGHTS),
        lambda output: F.binary_cross_entropy_with_logits(
            output, F.one_hot(LABELS, 10).float(), weight=WEIGHTS, pos_weight=WEIGHTS
        ),
    ],
    ids=["classes", "logits"],
)
def test_weights_of_a_loss_have_no_derivative_and_need_none(loss: Callable[[Tensor], Tensor]) -> None:
    found = compiled(small()).analyze(inputs(), loss=loss)
    predicted, measured = found.predict(PLAN), found.measure(PLAN, 10)
    assert not predicted.unknown
    assert 1 / 1.5 < predicted.gradient / measured.gradient < 1.5
    assert 1 / 2 < predicted.loss / measured.loss < 2


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_probabilities_do_not_leave_their_range(size: float) -> None:
    def loss(output: Tensor) -> Tensor:
        return F.binary_cross_entropy((size * output).sigmoid(), F.one_hot(LABELS, 10).float(), weight=WEIGHTS)

    found = compiled(small()).analyze(inputs(), loss=loss)
    predicted, measured = found.predict(PLAN), found.measure(PLAN, 10)
    assert size > 1 or 1 / 1.5 < predicted.gradient / measured.gradient < 1.5
    assert all(math.isfinite(own.normwise) for own in found.forward_errors(PLAN).values())


def test_weights_of_a_loss_that_depend_on_the_net_are_unknown() -> None:
    def loss(output: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            output, F.one_hot(LABELS, 10).float(), weight=output.detach().sigmoid()
        )

    with pytest.warns(PrecisionWarning, match=r"aten\.binary_cross_entropy_with_logits"):
        found = compiled(small()).analyze(inputs(), loss=loss)
    assert "0/product/fprop.weight" in found.predict(PLAN).unknown.loss


def test_a_seed_is_not_too_large() -> None:
    with pytest.raises(AnalysisError, match=r"from 0 to 2\*\*32 - 1"):
        precc.AnalysisOptions(seed=2**62)


def test_the_standard_error_of_coherent_errors_is_not_what_two_probes_agree_on() -> None:
    """The largest gradients are cut off alike: their errors have a mean, which random probes see by chance."""
    data, plan = load_mnist(), precc.Uniform("e4m3", scaling="tensor").assign()
    images, labels = data.train_images[:512].flatten(1), data.train_labels[:512]
    torch.manual_seed(0)
    net = compiled(nn.Linear(784, 10))
    for seed in range(6, 12):
        options = precc.AnalysisOptions(seed=seed)
        found = net.analyze(images, loss=lambda output: F.cross_entropy(output, labels), options=options)
        predicted, measured = found.predict(plan), found.measure(plan, 4)
        assert abs(predicted.gradient - measured.gradient) < 4 * predicted.standard_error.gradient
