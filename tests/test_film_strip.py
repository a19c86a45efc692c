"""How formats changed while a net trained."""

from precc.history import History
from precc.plan import PrecisionPlan
from precc.report.film_strip import FilmStrip

SLOTS = ("a/product/fprop.weight", "a/product/wgrad.input", "b/product/fprop.weight")


def format_of(plan: PrecisionPlan, slot: str) -> str:
    return plan.precision(slot).format.name


def film_of(history: History) -> FilmStrip:
    return FilmStrip.of(history, SLOTS, format_of)


def test_a_film_has_one_matrix_a_plan_and_one_frame_a_row() -> None:
    history = History()
    coarse = PrecisionPlan("e4m3", {"b/product/fprop.weight": "bf16"})
    for step, plan in enumerate((None, coarse, None, PrecisionPlan("fp32"), coarse)):
        history.note(step=step, controller="TrustRegion", event="accept", plan=plan)
    film = film_of(history)
    assert film.ops == ("a/product", "b/product")
    assert film.columns == ("fprop.weight", "wgrad.input")
    assert film.formats == ("float8_e4m3fn", "bfloat16", "float32")
    assert film.frames == (-1, 0, 0, 1, 0)
    assert film.plans == (((0, 1), (0, -1)), ((2, 2), (2, -1)))
    assert [row.step for row in film.rows] == [0, 1, 2, 3, 4]


def test_a_history_without_rows_is_an_empty_film() -> None:
    film = film_of(History())
    assert film.frames == film.plans == film.formats == ()
    assert film.ops == ("a/product", "b/product")


def test_the_film_of_a_large_training_is_small() -> None:
    """A row of the history costs a number, and a plan a matrix."""
    slots = [f"layers.{k}/product/fprop.weight" for k in range(1000)]
    plans = [PrecisionPlan("e4m3", {slots[k]: "bf16"}) for k in range(5)]
    history = History()
    for step in range(1000):
        history.note(step=step, controller="TrustRegion", event="accept", plan=plans[step // 200])
    film = FilmStrip.of(history, slots, format_of)
    assert len(film.plans) == 5
    bfloat16 = film.formats.index("bfloat16")
    assert [own[0].index(bfloat16) for own in film.plans] == [0, 1, 2, 3, 4]
    assert film.frames[::200] == (0, 1, 2, 3, 4)
