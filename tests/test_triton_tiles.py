"""Tiles of products, and choices under constraints."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precc.backends.triton.constraints import Constraint, Polynomial, solutions
from precc.backends.triton.device import DEVICES, INTERPRETER
from precc.backends.triton.tiles import ProductSize, product_tiles

NAMES = ("p", "q", "r")
polynomials = st.lists(
    st.tuples(st.integers(0, 5), st.lists(st.sampled_from(NAMES), max_size=2).map(tuple)), min_size=1, max_size=3
).map(lambda terms: Polynomial(tuple(terms)))
positive = polynomials.filter(lambda own: any(factor and not names for factor, names in own.terms))
constraints = st.one_of(
    st.builds(Constraint, polynomials, st.sampled_from(["==", "<="]), polynomials),
    st.builds(Constraint, polynomials, st.just("%"), positive),
)


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries({name: st.lists(st.integers(1, 9), unique=True, max_size=4).map(tuple) for name in NAMES}),
    st.lists(constraints, max_size=3),
)
def test_choices_are_those_of_all_that_can_be_tried(lists: dict[str, tuple[int, ...]], some: list[Constraint]) -> None:
    wanted = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    assert list(solutions(lists, some)) == [own for own in wanted if all(one.holds(own) for one in some)]


SIZES = [1, 4096]


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("read", [0.5, 8])
def test_tiles_fit(name: str, read: float) -> None:
    device = DEVICES[name]
    for rows, columns, terms, live, divides in product(SIZES, SIZES, SIZES, (0, 2), (0, 32, 48)):
        size = ProductSize(rows, columns, terms, 2, 2, read, read, read != 2, divides, live)
        tiles = product_tiles(size, device)
        assert tiles
        for tile in tiles[:3]:
            assert tile.stages * tile.terms * (tile.rows + tile.columns) * read <= device.shared_memory
            assert tile.rows * tile.columns * (1 + live) <= 144 * 32 * tile.warps
            assert not divides or divides % tile.terms == 0


def test_large_products_have_large_tiles() -> None:
    (best, *_) = product_tiles(ProductSize(8192, 8192, 8192, 2, 2, 2, 2), DEVICES["sm_90"])
    assert best.rows * best.columns >= 128 * 128
    (small, *_) = product_tiles(ProductSize(64, 64, 8192, 2, 2, 2, 2), DEVICES["sm_90"])
    assert small.rows <= 64 >= small.columns


def test_the_interpreter_has_few_programs() -> None:
    assert [tile.rows for tile in product_tiles(ProductSize(1000, 3, 7, 1, 1, 1, 1), INTERPRETER)] == [256]
