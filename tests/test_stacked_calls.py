"""Calls made together answer what they do alone, in order, and hold no more than their numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from precc.analysis.stacked_calls import StackedCalls, kept


def total(x: Tensor, factor: float, y: Tensor | None = None, *, power: int = 1) -> Sequence[float]:
    found: Sequence[float] = (factor * x**power).flatten(1).sum(1).add(0 if y is None else y.sum(1)).tolist()
    return found


def test_each_call_has_its_own_result() -> None:
    generator, calls, wanted = torch.Generator().manual_seed(0), StackedCalls(), []
    for index in range(400):
        shape = ((5,), (2, 3), (3000,))[index % 3]
        x = torch.randint(0, 9, shape, generator=generator).double()
        y = torch.ones(2).double() * index if index % 5 == 0 else None
        factor, power = float(index % 2 + 1), index % 7 // 6 + 1
        place = calls.add(total, (x, factor, y), power=power)
        assert place == index
        wanted.append(float((factor * x**power).sum() + (0 if y is None else y.sum())))
    assert list(calls.results()) == wanted


def test_calls_are_made_together_and_before_too_much_waits() -> None:
    rows = []

    def lengths(x: Tensor) -> Sequence[int]:
        rows.append(len(x))
        return [x.shape[1]] * len(x)

    calls = StackedCalls()
    for _ in range(258):
        calls.add(lengths, (torch.zeros(1024),))
    assert sum(rows) == 256
    assert list(calls.results()) == [1024] * 258
    assert rows == [128, 128, 2]


def test_a_part_does_not_hold_the_whole_nor_its_graph() -> None:
    whole = torch.zeros(10**6, requires_grad=True)
    part = kept(whole[:10] * 1)
    assert part.grad_fn is None
    assert kept(whole.detach()[:10]).untyped_storage().nbytes() == 40
    few = torch.zeros(100)
    assert kept(few) is few
