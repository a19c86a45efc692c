"""What trackers are given: names, magnitudes, pictures."""

import math
import posixpath
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precc.history import History
from precc.plan import PrecisionPlan
from precc.report.film_strip import FilmStrip
from precc.tracking import magnitudes
from precc.tracking.magnitudes import Magnitudes
from precc.tracking.names import plain_name, safe_name, shortened
from precc.tracking.pictures import film_picture, frames_shown, legend, map_picture

GREEN, BLUE, GREY, WHITE = (0, 0x9E, 0x73), (0, 0x72, 0xB2), (238, 238, 238), (255, 255, 255)
#: Of names, and what escapes are made of.
PIECES = st.lists(st.sampled_from(["_x", "_", "23", "-", "#", "/", ".", "a", "Ü", "\0"]), min_size=1, max_size=9)

SLOTS = ("a/product/fprop.weight", "a/product/wgrad.input", "b/product#1/fprop.weight")


@given(PIECES)
def test_every_name_has_a_safe_one_of_its_own(pieces: list[str]) -> None:
    name = "".join(pieces)
    safe = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_./-]+", safe)
    assert posixpath.normpath(safe) == safe
    assert not safe.startswith(("..", "/"))
    assert plain_name(safe) == name


def test_names_of_slots_stay_readable() -> None:
    assert safe_name("blocks.0.attn/product#1/dgrad_a.b") == "blocks.0.attn/product-1/dgrad_a.b"


def test_long_names_end_in_a_digest() -> None:
    long = ["x" * 300, "x" * 299 + "y"]
    short = {shortened(name, 250) for name in long}
    assert len(short) == 2
    assert {len(name) for name in short} == {250}
    assert shortened("x" * 250, 250) == "x" * 250


def exponents(values: list[float]) -> dict[int, int]:
    return Counter(math.frexp(own)[1] - 1 for own in values if own and math.isfinite(own))


def counted(found: Magnitudes) -> dict[int, int]:
    return {found.edges[at]: count for at, count in enumerate(found.counts) if count}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_exponents_are_those_of_frexp(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(magnitudes, "_AT_ONCE", 100)
    limits = torch.finfo(dtype)
    edges = [limits.max, -limits.max, limits.tiny, limits.smallest_normal * limits.eps, -0.0, 0.0, 1.0, -2.0]
    edges += [float("nan"), float("inf"), -float("inf")]
    values = torch.cat([torch.tensor(edges, dtype=dtype), torch.randn(500).exp2().to(dtype)])
    found = Magnitudes.of(values.reshape(7, 73).T)
    assert counted(found) == exponents(values.tolist())
    assert (found.elements, found.zeros, found.nonfinite) == (511, 2, 3)
    assert found.counts[0]
    assert found.counts[-1]


def test_tensors_of_other_kinds() -> None:
    assert counted(Magnitudes.of(torch.tensor([1 + 4j]))) == {0: 1, 2: 1}
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[0, 0, 2]]), torch.tensor([1.0, 3.0, 0.5]), (9,), check_invariants=True
    )
    assert counted(Magnitudes.of(sparse)) == {2: 1, -1: 1}
    for nothing in (torch.zeros(0), torch.zeros(3)):
        assert Magnitudes.of(nothing).counts == ()


def film_of(history: History) -> FilmStrip:
    return FilmStrip.of(history, SLOTS, lambda plan, slot: plan.precision(slot).format.name)


def trained(*plans: PrecisionPlan | None) -> History:
    history = History()
    for step, plan in enumerate(plans):
        history.note(step=step, controller="A", event="b", plan=plan)
    return history


FP16, FP32 = PrecisionPlan("fp16"), PrecisionPlan("fp32")
MIXED = PrecisionPlan("fp32", {SLOTS[1]: "fp16"})


def test_a_map_has_a_cell_for_each_slot() -> None:
    picture = map_picture(film_of(trained(MIXED)))
    assert picture is not None
    assert picture.shape == (24 + 1 + 24, 24 + 1 + 24, 3)
    assert [tuple(picture[row, column]) for row, column in ((0, 0), (23, 48), (48, 23), (48, 48))] == [
        BLUE,
        GREEN,
        BLUE,
        GREY,
    ]
    assert tuple(picture[24, 3]) == tuple(picture[3, 24]) == WHITE


def test_a_film_goes_from_left_to_right() -> None:
    picture = film_picture(film_of(trained(None, FP32, FP16, None)))
    assert picture is not None
    assert picture.shape == (24 * 4 + 1, 24 * 4, 3)
    assert [tuple(picture[0, 24 * frame + 12]) for frame in range(4)] == [GREY, BLUE, GREEN, GREEN]
    assert [tuple(picture[own, 95]) for own in (23, 24, 47, 48, 49, 73)] == [GREEN] * 3 + [WHITE, GREEN, GREY]


def test_a_format_has_one_colour_in_all_pictures() -> None:
    one, other = film_of(trained(FP32, FP16)), film_of(trained(FP16, FP32))
    assert one.formats == other.formats[::-1]
    first, second = film_picture(one), film_picture(other)
    assert first is not None
    assert second is not None
    assert np.array_equal(first, second[:, ::-1])
    assert "| float16 | #009e73 |" in legend([one])
    assert legend([one]).endswith("1. a/product\n2. b/product#1")


def test_a_long_film_is_shown_to_its_end() -> None:
    film = film_of(trained(*[FP32] * 2999, FP16))
    picture = film_picture(film)
    assert picture is not None
    assert picture.shape[1] == 1000
    assert (tuple(picture[0, 998]), tuple(picture[0, 999])) == (BLUE, GREEN)
    assert frames_shown(3000) == [*range(2, 3000, 3)]
    assert frames_shown(3) == [0, 1, 2]


def test_there_is_no_picture_of_nothing() -> None:
    assert film_picture(film_of(History())) is None
    assert map_picture(film_of(History())) is None
