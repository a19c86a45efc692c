"""The random Hadamard transform and shift-and-squeeze."""

import pytest
import torch

from precc import ShiftSqueeze, random_hadamard, round_to
from precc.errors import FormatError


def matrix(seed: int) -> torch.Tensor:
    """The transform of 16 values as a matrix."""
    return random_hadamard(torch.eye(16, dtype=torch.float64), seed=seed, axis=1)


def test_the_transform_is_orthogonal_with_entries_of_a_quarter() -> None:
    own = matrix(3)
    assert torch.equal(own @ own.T, torch.eye(16, dtype=torch.float64))
    assert set(own.abs().flatten().tolist()) == {0.25}
    assert not torch.equal(own, matrix(4))


@pytest.mark.parametrize("length", [16, 64, 70, 5])
def test_it_cancels_in_a_product(length: int) -> None:
    a, b = torch.randn(7, length, dtype=torch.float64), torch.randn(length, 9, dtype=torch.float64)
    ours = random_hadamard(a, seed=1, axis=1) @ random_hadamard(b, seed=1, axis=0)
    torch.testing.assert_close(ours, a @ b, rtol=1e-13, atol=1e-13)


def test_it_spreads_outliers() -> None:
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    x[:, ::37] *= 100
    mixed = random_hadamard(x, seed=1)
    assert mixed.norm().item() == pytest.approx(x.norm().item(), rel=1e-5)
    assert mixed.abs().max() < 0.5 * x.abs().max()


def test_hadamard_keeps_dtype_shape_and_refuses_what_it_cannot_do() -> None:
    x = torch.randn(3, 32, 2).bfloat16()
    assert random_hadamard(x, seed=0, axis=1).shape == x.shape
    assert random_hadamard(x, seed=0, axis=1).dtype == torch.bfloat16
    assert random_hadamard(torch.zeros(0, 16), seed=0).shape == (0, 16)
    for wrong in (torch.zeros(16, dtype=torch.int32), torch.tensor(1.0)):
        with pytest.raises(FormatError, match="Hadamard"):
            random_hadamard(wrong, seed=0)
    with pytest.raises(FormatError, match="axis 2"):
        random_hadamard(torch.zeros(4, 16), seed=0, axis=2)


def test_shift_and_squeeze_fits_e5m2_and_comes_back() -> None:
    x = torch.exp(torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 3 - 30) * torch.randn(10_000)
    x[::50] = 0.0
    transform = ShiftSqueeze.of(x)
    squeezed = transform.squeeze(x)
    logs = squeezed[squeezed != 0].abs().double().log2()
    assert abs(float(logs.mean())) < 1e-5
    assert abs(float(logs.max()) - 15) < 1e-5
    torch.testing.assert_close(transform.restore(squeezed.double()).float(), x, rtol=1e-5, atol=0)
    rounded = transform.restore(round_to(squeezed, "e5m2"))
    direct = round_to(x, "e5m2")
    assert (rounded - x).norm() < 0.3 * (direct - x).norm()


def test_shift_and_squeeze_of_special_tensors() -> None:
    assert ShiftSqueeze.of(torch.zeros(3)) == ShiftSqueeze(1.0, 0.0)
    constant = torch.tensor([-4.0, 4.0])
    assert ShiftSqueeze.of(constant).squeeze(constant).tolist() == [-1.0, 1.0]
    with pytest.raises(FormatError, match="finite"):
        ShiftSqueeze.of(torch.tensor([1.0, float("inf")]))
