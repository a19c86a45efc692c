"""Timed tiles, and where they are kept."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from precc.backends.triton.device import DEVICES
from precc.backends.triton.live_rows import PlanRows, rows_read
from precc.backends.triton.load import kernels_folder, launches
from precc.backends.triton.templates import product
from precc.backends.triton.tiles import Tile
from precc.backends.triton.tuning import TIMED, known, quickest
from precc.errors import PrecisionWarning
from tests.triton_products import MadeProduct, rounding_row

TILES = [Tile(16 << n, 64, 32, 4, 3) for n in range(TIMED + 2)]


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRECC_CACHE", str(tmp_path / "cache"))


def found(asked: list[Tile], kernel: str = "k") -> Tile:
    """The quickest; what is timed is noted."""

    def timed(tile: Tile) -> float:
        asked.append(tile)
        return abs(tile.rows - 64)

    return quickest(TILES, kernel, "NVIDIA H100 80GB HBM3", "3.9.0", timed)


def test_the_quickest_of_the_first_is_timed_once() -> None:
    asked: list[Tile] = []
    assert found(asked) == TILES[2]
    assert asked == TILES[:TIMED]
    assert found(asked) == TILES[2]
    assert len(asked) == TIMED
    assert known(TILES, "k", "NVIDIA H100 80GB HBM3", "3.9.0") == TILES[2]
    assert known(TILES, "k", "NVIDIA H100 80GB HBM3", "3.6.0") is None
    assert known(TILES, "another", "NVIDIA H100 80GB HBM3", "3.9.0") is None
    found(asked, "another")
    assert len(asked) == 2 * TIMED


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_damaged_cache_is_warned_of(text: str) -> None:
    found([])
    (path,) = kernels_folder().glob("tiles_*.json")
    path.write_bytes(text.encode("latin-1"))
    with pytest.warns(PrecisionWarning, match="timed anew; delete the file"):
        assert found([]) == TILES[2]


def test_a_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRECC_CACHE", str(tmp_path / "file"))
    with pytest.warns(PrecisionWarning, match="timed anew in each process"):
        assert found([]) == TILES[2]


def test_a_product_takes_the_quickest_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    made = MadeProduct(
        "mm", torch.ones(64, 64), torch.ones(64, 64), [rounding_row("e4m3")] * 2, device=DEVICES["sm_90"]
    )
    program = made.program()
    used: list[dict[str, int]] = []

    def timed(run: Callable[[], None]) -> float:
        with launches() as ran:
            run()
        used.append(dict(ran[-1].source.tile))
        return 1.0 if len(used) == 3 else 2.0

    monkeypatch.setattr(product, "can_be_timed", lambda device: True)
    monkeypatch.setattr(product, "milliseconds", timed)
    (result,) = program(made.args, PlanRows.of(rows_read(made.group.module), made.plan).rows)
    assert 3 <= len(used) <= TIMED
    assert program.kernels[-1].tile == used[2]
    assert result.equal(torch.full((64, 64), 64.0))
