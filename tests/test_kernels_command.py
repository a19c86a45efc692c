"""``precc kernels``: what it prints, and its exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from precc.backends.triton.device import DEVICES
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.listing import Listing
from precc.backends.triton.low_precision import LowSize, low_pays
from precc.cli import main
from precc.commands import kernels
from precc.module import session_of
from tests.command_files import write_files
from tests.triton_sources import DOUBLED, WRONG, product

FIELDS = (
    *("name", "nodes", "slots", "tile", "num_warps", "num_stages", "registers", "spills", "shared_memory"),
    *("instructions", "bytes", "flops", "problem"),
)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)


def listed(monkeypatch: pytest.MonkeyPatch, listing: Listing, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and how the kernels were asked for."""
    asked: dict[str, Any] = {}

    def kernels_for(net: Any, args: Any, kwargs: Any) -> Listing:
        backend = session_of(net).options.backend
        asked.update(net=net, args=args, device=backend.target, force_low=backend.force_low)  # type: ignore[attr-defined]
        return listing

    monkeypatch.setattr(kernels, "kernels_for", kernels_for)
    return main(["kernels", "net.py:factory", *arguments]), asked


def test_the_document_is_a_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    listing = Listing((DOUBLED, product("fp8e4nv")), (("fc1_rows", "no reason"),))
    code, asked = listed(monkeypatch, listing, "--plan", "e4m3/tensor", "--json")
    assert code == 0
    assert (asked["device"], asked["force_low"]) == (DEVICES["sm_90"], False)
    rows = json.loads(capsys.readouterr().out)
    assert [tuple(row) for row in rows] == [FIELDS, FIELDS]
    assert rows[0]["tile"] == {"BLOCK": 256}
    assert rows[1]["instructions"] == ["wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3"]
    assert rows[1]["spills"] == 0


def test_the_table_has_what_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, asked = listed(monkeypatch, Listing((DOUBLED,), (("fc1_rows", "no reason"),)), "--force-low")
    assert code == 0
    assert asked["force_low"] is True
    text = capsys.readouterr().out
    for part in ("doubled", "BLOCK=256", "left to Inductor", "fc1_rows", "no reason"):
        assert part in text


@pytest.mark.parametrize(
    ("source", "said"),
    [(WRONG, "wrong does not compile for sm_90"), (product("fp16", 128, num_warps=1), "product_fp16 spills")],
)
def test_what_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: Any, said: str
) -> None:
    monkeypatch.setattr(KernelSource, "variants", lambda own: ())  # one of more warps would do
    code, _ = listed(monkeypatch, Listing((source, DOUBLED), ()), "--json")
    printed = capsys.readouterr()
    assert code == 1
    assert said in printed.err
    rows = json.loads(printed.out)
    assert said in rows[0]["problem"]
    assert rows[1]["problem"] == ""


def test_when_narrow_operands_pay() -> None:
    sm_90 = DEVICES["sm_90"]
    large, small = LowSize(8192, 8192, 8192, 2 * 8192**2), LowSize(128, 128, 128, 2 * 128**2)
    assert low_pays(large, "float8_e4m3fn", "float8_e4m3fn", sm_90)
    assert low_pays(large, "float8_e5m2", "float8_e4m3fn", sm_90)
    assert not low_pays(small, "float8_e4m3fn", "float8_e4m3fn", sm_90)
    assert low_pays(small, "float8_e4m3fn", "float8_e4m3fn", DEVICES["sm_89"])
