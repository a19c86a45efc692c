"""What trackers are given: names, magnitudes, pictures."""

import math
import posixpath
import re
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageDraw

from precc.history import History
from precc.plan import PrecisionPlan
from precc.report.film_strip import FilmStrip
from precc.tracking import drawing, magnitudes
from precc.tracking.drawing import drawn_film, drawn_map
from precc.tracking.magnitudes import Magnitudes
from precc.tracking.names import plain_name, safe_name, shortened
from precc.tracking.pictures import film_picture, frames_shown, legend, map_picture
from precc.tracking.sink import Pixels
from precc.tracking.sink_callback import SinkCallback
from precc.tracking.step_figures import StepFigures
from tests.recording_sink import RecordingSink

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
    assert picture.shape == (12 * 4 + 1, 120 * 4, 3), "480 pixels at least, or how should one see a decision"
    assert [tuple(picture[0, 120 * frame + 60]) for frame in range(4)] == [GREY, BLUE, GREEN, GREEN]
    assert [tuple(picture[own, 479]) for own in (11, 12, 23, 24, 25, 37)] == [GREEN] * 3 + [WHITE, GREEN, GREY]


def test_a_format_has_one_colour_in_all_pictures() -> None:
    one, other = film_of(trained(FP32, FP16)), film_of(trained(FP16, FP32))
    assert one.formats == other.formats[::-1]
    first, second = film_picture(one), film_picture(other)
    assert first is not None
    assert second is not None
    assert np.array_equal(first, second[:, ::-1])
    assert "| float16 | #009e73 |" in legend([one])
    only = legend([film_of(trained(FP16)), one])
    assert [line.split(" ")[1] for line in only.splitlines()[2:4]] == ["float16", "float32"], "of both"
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
    for picture in (film_picture, map_picture, drawn_film, drawn_map):
        assert picture(film_of(History())) is None


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, float]]:
    """What pillow is told to write, and where."""
    written: list[tuple[str, float, float]] = []
    text = ImageDraw.ImageDraw.text

    def kept(self: Any, place: tuple[float, float], own: str, *rest: Any, **more: Any) -> None:
        written.append((own, *place))
        text(self, place, own, *rest, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", kept)
    return written


Texts = list[tuple[str, float, float]]


def block_in(picture: Pixels, block: Pixels) -> tuple[int, int]:
    """Row and column of the one place where the block stands in the picture."""
    tall, wide = block.shape[:2]
    top, left = (extent - own for extent, own in zip(picture.shape, (tall, wide), strict=False))
    places = [(row, column) for row in range(top + 1) for column in range(left + 1)]
    [found] = [own for own in places if (picture[own[0] :, own[1] :][:tall, :wide] == block).all()]
    return found


def test_a_map_is_readable(texts: Texts) -> None:
    film = film_of(trained(FP32, MIXED))
    picture = drawn_map(film)
    assert picture is not None
    words = [text for text, *_ in texts]
    assert words[:2] == ["a/product", "b/product#1"]
    assert words[2:6] == ["fprop", "weight", "wgrad", "input"]
    assert words[6:9] == ["fp32", "fp32", "fp16"], "of four cells one is none"
    assert words[9:] == ["fp32", "fp16"], "the formats"
    assert all(0 <= x < picture.shape[1] and 0 <= y < picture.shape[0] for _, x, y in texts)


def test_a_film_has_names_steps_and_losses(texts: Texts) -> None:
    history = History()
    for step, (plan, loss) in enumerate([(FP32, 2.5), (None, math.nan), (FP16, 0.5), (None, None), (None, 1.0)]):
        history.note(step=10 * step, controller="A", event="b", plan=plan, loss=loss)
    film = film_of(history)
    picture, block = drawn_film(film), film_picture(film)
    assert picture is not None
    assert block is not None
    top, left = block_in(picture, block)
    words = {text: (x - left, y - top) for text, x, y in texts}
    assert [words[name][1] for name in ("a/product", "b/product#1")] == pytest.approx([12.25, 36.75])
    width = block.shape[1] / 5
    assert [words[step][0] for step in ("0", "10", "20", "30", "40")] == [width * (at + 0.5) for at in range(5)]
    assert {"step", "ticks: another plan", "fp32", "fp16"} < set(words)
    assert "of each op 2 lines: fprop.weight, wgrad.input" in words
    high, low = words["loss 2.5"][1], words["0.5"][1]
    red = [(picture[:top, left + round(width * (at + 0.5))] == (176, 36, 36)).all(1).nonzero()[0] for at in range(5)]
    assert [len(own) > 0 for own in red] == [True, False, True, True, True], "NaN is a gap, a row without a loss none"
    assert [own.mean() - top for own in (red[0], red[2])] == pytest.approx([high, low], abs=1)
    assert red[4].mean() - top == pytest.approx(low + (high - low) / 4, abs=1)
    ticks = (picture[top - 4, left : left + block.shape[1]] < 100).all(1).nonzero()[0]
    assert ticks.mean() == pytest.approx(2 * width, abs=1), "one, where the plan changes"


def test_names_that_have_no_room_are_left_out_and_that_is_said(texts: Texts) -> None:
    slots = [f"layers.{number}/product/fprop.weight" for number in range(300)]
    film = FilmStrip.of(trained(FP32), slots, lambda plan, slot: "float32")
    for drawn in (drawn_map, drawn_film):
        texts.clear()
        picture = drawn(film)
        assert picture is not None
        words = [text for text, *_ in texts]
        named = [text for text in words if text.startswith("layers.")]
        assert 300 / len(named) == pytest.approx(int(named[1].split(".")[1].partition("/")[0]), abs=0.1)
        assert f"one op of {300 // len(named)} is named here, all of them in precc/legend" in words
        rows = sorted(y for text, _, y in texts if text.startswith("layers."))
        assert min(b - a for a, b in pairwise(rows)) >= 15


def test_names_of_any_signs_are_drawn(texts: Texts) -> None:
    slots = [f"{name}/product/fprop.weight" for name in ("a\nb", "Ü\0", "", "😀")]
    drawn = drawn_map(FilmStrip.of(trained(FP32), slots, lambda plan, slot: "mine\n"))
    assert drawn is not None
    assert [text for text, *_ in texts][:4] == ["a?b/product", "Ü?/product", "/product", "😀/product"]


def test_pictures_without_pillow_have_no_names() -> None:
    figures = StepFigures({}, {}, None, {}, {}, film_of(trained(FP32)), film_of(trained(FP32)))
    pictures = []
    for there in (True, False):
        sink = RecordingSink()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drawing, "find_spec", lambda name, there=there: there or None)
            SinkCallback(sink, History()).on_figures(figures, 3)
        pictures.append(sink.of("image", "precc/map")[0][1])
    bare = map_picture(film_of(trained(FP32)))
    assert bare is not None
    assert np.array_equal(pictures[1], bare)
    assert pictures[0].shape[1] > bare.shape[1]
