"""Figures of devices: what is measured, what is fitted to it, and the file that holds it."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precc
from precc.cli import main
from precc.devices.at_hand import DeviceAtHand, device_at_hand
from precc.devices.calibrate import calibrate, measure
from precc.devices.figures import DeviceFigures
from precc.devices.fit import fit_roofline
from precc.devices.published import PUBLISHED
from precc.devices.timed_work import PairRate, TimedWork
from precc.devices.workloads import SIZES, Sizes, workloads
from precc.errors import PlanError

TINY = Sizes(products=((16, 32, 48), (64, 64, 64)), casts=((16, 32),))
HERE = DeviceAtHand("abacus", "cpu", "cpu-emulated", {"torch": "2"})


@pytest.fixture(scope="module")
def figures() -> DeviceFigures:
    return calibrate("cpu", seconds=0.2, sizes=TINY)


# --- measuring


def test_a_cpu_is_measured(figures: DeviceFigures) -> None:
    assert (figures.name, figures.kind, figures.target) == (device_at_hand("cpu").name, "cpu", "cpu-emulated")
    assert figures.versions["torch"] == torch.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", figures.date)
    names = {own.name for own in figures.rates}
    assert {"float32 x float32", "float64 x float64", "bfloat16 x bfloat16"} <= names
    assert names | set(figures.missing) == {own.name for own in workloads("cpu", TINY) if own.kind == "product"}
    assert not names & set(figures.missing)
    assert {own.kind for own in figures.measurements} == {"launch", "cast", "product"}


def test_what_torch_does_not_multiply_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("no such unit\nException raised from here")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    found = calibrate("cpu", seconds=0.01, sizes=TINY)
    fp8 = {"float8_e4m3fn x float8_e4m3fn", "float8_e4m3fn x float8_e5m2", "float8_e5m2 x float8_e5m2"}
    assert {name: found.missing[name] for name in fp8} == dict.fromkeys(fp8, "no such unit")
    assert not fp8 & {own.name for own in found.rates}


def refuse_rows(monkeypatch: pytest.MonkeyPatch, rows: int, why: str) -> None:
    """`torch.mm` of so many rows fails, as large ones do where memory ends."""
    multiply = torch.mm

    def fails(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.shape[0] == rows:
            raise RuntimeError(why)
        return multiply(a, b)

    monkeypatch.setattr(torch, "mm", fails)


def test_single_sizes_that_fail_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refuse_rows(monkeypatch, 64, "out of memory\nof the device")
    found = calibrate("cpu", seconds=0.01, sizes=TINY)
    plain = ("float64", "float32", "float16", "bfloat16")
    failed = {name: why for name, why in found.missing.items() if name.endswith(", 64 x 64 x 64")}
    assert failed == {f"{own} x {own}, 64 x 64 x 64": "out of memory" for own in plain}
    assert {f"{own} x {own}" for own in plain} <= {own.name for own in found.rates}
    assert not {f"{own} x {own}" for own in plain} & set(found.missing)
    found.save(tmp_path / "device.json")
    assert DeviceFigures.load(tmp_path / "device.json").missing == found.missing


def test_failures_of_all_sizes_are_one_with_all_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_rows(monkeypatch, 16, "")
    refuse_rows(monkeypatch, 64, "out of memory")
    works = [own for own in workloads("cpu", TINY) if own.name in ("float32 x float32", "launch")]
    assert measure(works, seconds=0.01)[1] == {"float32 x float32": "RuntimeError; out of memory"}


def test_without_any_product_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("no such unit")

    for name in ("mm", "_scaled_mm", "_int_mm"):
        monkeypatch.setattr(torch, name, refuse)
    with pytest.raises(PlanError, match="have not all of them(; not measured: [a-z0-9 ]+: no such unit){3}$"):
        calibrate("cpu", seconds=0.01, sizes=TINY)


def test_products_are_those_of_their_formats() -> None:
    """What is timed computes what it says; bytes and operations by hand."""
    by_name = {own.name: own for own in workloads("cpu", Sizes(((3, 5, 7),), ((4, 6),)))}
    work = by_name["float16 x float16"]
    assert (work.flops, work.moved) == (2 * 3 * 5 * 7, 2 * (15 + 35 + 21))
    result = work.prepare()()
    assert isinstance(result, torch.Tensor)
    assert (result.shape, result.dtype) == ((3, 7), torch.float16)
    eight = by_name["int8 x int8"]
    assert (eight.flops, eight.moved) == (210, 15 + 35 + 4 * 21)
    assert by_name["float8_e4m3fn x float8_e5m2"].moved == 15 + 35 + 2 * 21
    assert by_name["cast bfloat16 to float8_e4m3fn"].moved == 24 * 3
    assert by_name["cast float32 to bfloat16"].moved == 24 * 6
    assert by_name["largest of bfloat16"].moved == 24 * 2
    transposed = by_name["transpose bfloat16"].prepare()()
    assert isinstance(transposed, torch.Tensor)
    assert (transposed.shape, transposed.is_contiguous()) == ((6, 4), True)
    assert "tfloat32 x tfloat32" in {own.name for own in workloads("cuda", SIZES["cuda"])}
    assert [own.fp32_precision for own in workloads("cuda", TINY) if own.name.startswith("tf")] == ["tf32", "tf32"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: calibrate("tpu"), "precc measures 'cpu' or 'cuda', not 'tpu'"),
        (lambda: calibrate("cpu", seconds=0), "seconds is how long to measure, not 0"),
        (lambda: calibrate("cpu", seconds=math.nan), "seconds is how long to measure, not nan"),
        (lambda: calibrate("cpu", seconds=1e-3, sizes=Sizes((), ())), "figures need a launch, casts and products"),
    ],
)
def test_what_cannot_be_measured(make: Callable[[], object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu() -> None:
    assert device_at_hand().kind == "cpu"
    with pytest.raises(PlanError, match="torch finds no GPU on this machine"):
        calibrate("cuda")


# --- fitting


def timed(launch: float, bandwidth: float, rate: float, noise: list[float], *, outlier: float = 1.0) -> list[TimedWork]:
    """Of a machine with these figures, times some noise; of one work in each kind times an outlier."""
    work = [TimedWork("launch", "launch", (1, 64), 0.0, 0.0, launch)]
    for k, factor in enumerate(noise):
        wild = outlier if k == 1 else 1.0
        moved, flops = 1e3 * 4.0**k, 1e5 * 8.0**k
        seconds = max(launch, moved / bandwidth) * factor * wild
        work.append(TimedWork("cast", "copy", (k + 1, 1), 0.0, moved, seconds))
        seconds = max(launch, moved / bandwidth, flops / rate) * factor * wild
        work.append(TimedWork("product", "float32 x float32", (k + 1, 1, 1), flops, moved, seconds))
    return work


@given(st.floats(1e-6, 1e-5), st.floats(1e9, 1e12), st.floats(1e9, 1e12), st.sampled_from([1.0, 0.1, 30.0]))
def test_figures_are_found_again(launch: float, bandwidth: float, rate: float, outlier: float) -> None:
    """Also where one of eight times is far off; where nothing but the launch was seen, times are met all the same."""
    found = fit_roofline(HERE, timed(launch, bandwidth, rate, [1.0] * 8, outlier=outlier), {}, "2026-01-01")
    for own in found.measurements:
        wild = outlier if own.shape[0] == 2 else 1.0
        assert found.seconds_of(own) * wild == pytest.approx(own.seconds, rel=1e-9)
    assert found.launch == launch
    assert found.bandwidth == pytest.approx(bandwidth, rel=1e-9)
    assert found.bandwidth_error <= 1e-9
    assert found.rates[0].flops == pytest.approx(rate, rel=1e-9)
    assert found.rates[0].error <= 1e-9


def test_errors_are_those_of_the_times() -> None:
    noise = [1.0, 1.1, 0.9, 1.2, 0.8]
    found = fit_roofline(HERE, timed(1e-9, 1e9, 1e9, noise), {"x": "why"}, "2026-01-01")
    apart = sorted(abs(found.seconds_of(own) / own.seconds - 1) for own in found.measurements if own.kind == "cast")
    assert found.bandwidth_error == pytest.approx(apart[2])
    assert found.bandwidth_error == pytest.approx(1 / 9, rel=1e-9)
    assert found.missing == {"x": "why"}


def test_no_other_figure_fits_better() -> None:
    """The candidates are enough: no rate or bandwidth of a fine grid has a smaller sum."""
    work = timed(2e-6, 3e9, 5e9, [1.3, 0.7, 1.1, 0.4, 2.0, 0.9])
    found = fit_roofline(HERE, work, {}, "2026-01-01")
    casts, products = ([own for own in work if own.kind == kind] for kind in ("cast", "product"))

    def of_casts(figure: float) -> float:
        return sum(abs(math.log(max(found.launch, own.moved / figure) / own.seconds)) for own in casts)

    def of_products(figure: float) -> float:
        times = (max(found.seconds(own.moved), own.flops / figure) for own in products)
        return sum(abs(math.log(time / own.seconds)) for time, own in zip(times, products, strict=True))

    grid = [10 ** (k / 500) for k in range(4000, 6500)]
    assert of_casts(found.bandwidth) <= min(map(of_casts, grid)) + 1e-12
    assert of_products(found.rates[0].flops) <= min(map(of_products, grid)) + 1e-12


def at_the_corner(kind: Literal["cast", "product"], moved: tuple[float, float], flops: float) -> list[TimedWork]:
    """Two works below the launch, of 1e-6 s, and one that takes twenty times as long with ten times the work."""
    name, shape = ("copy", (1, 1)) if kind == "cast" else ("float32 x float32", (1, 1, 1))
    fast = TimedWork(kind, name, shape, flops, moved[0], 0.5e-6)
    return [fast, fast, TimedWork(kind, name, shape, 10 * flops, moved[1], 2e-5)]


def test_the_best_figure_may_be_at_the_corner_of_the_roofline() -> None:
    """Where work takes just the launch: no time is met there, and the sum is 3 log 2, beside 4 where one is."""
    launch = TimedWork("launch", "launch", (1, 64), 0.0, 0.0, 1e-6)
    casts, products = at_the_corner("cast", (1e3, 1e4), 0.0), at_the_corner("product", (1.0, 1.0), 1e3)
    found = fit_roofline(HERE, [launch, *casts, *products], {}, "2026-01-01")
    assert found.bandwidth == pytest.approx(1e9)
    assert found.rates[0].flops == pytest.approx(1e9)


# --- the file


def test_a_file_is_read_as_it_was_written(figures: DeviceFigures, tmp_path: Path) -> None:
    for own in (figures, *PUBLISHED.values()):
        own.save(tmp_path / "device.json")
        assert DeviceFigures.load(tmp_path / "device.json") == own
    figures.save(tmp_path / "device.json")
    again = DeviceFigures.load(str(tmp_path / "device.json"))
    refitted = fit_roofline(device_at_hand("cpu"), again.measurements, again.missing, again.date)
    assert (refitted.rates, refitted.bandwidth, refitted.launch) == (figures.rates, figures.bandwidth, figures.launch)


DOCUMENT: dict[str, Any] = {
    "precc_device": 1,
    "name": "abacus",
    "kind": "cpu",
    "target": "cpu-emulated",
    "rates": [{"first": "float32", "second": "float32", "flops": 1e9, "error": 0.1}],
    "bandwidth": 1e9,
    "launch": 1e-6,
    "bandwidth_error": 0.0,
    "date": "2026-01-01",
    "versions": {"torch": "2"},
    "missing": {},
    "measurements": [{"kind": "cast", "name": "copy", "shape": [2, 2], "flops": 0.0, "moved": 8.0, "seconds": 1e-6}],
}
RATE, WORK = DOCUMENT["rates"][0], DOCUMENT["measurements"][0]


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in DOCUMENT.items() if key != name}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (without("precc_device"), "the entry 'precc_device' is missing"),
        ([], "the entry 'precc_device' is missing"),
        (DOCUMENT | {"precc_device": 2}, "its version is 2, not 1: measure again with `precc calibrate`"),
        (without("launch"), "the file has no entry 'launch'"),
        (without("measurements"), "the file has no entry 'measurements'"),
        (DOCUMENT | {"speed": 3}, "the file has an unknown entry 'speed': expected one of 'name'"),
        (DOCUMENT | {"name": 3}, "the entry name is 3, not a text"),
        (DOCUMENT | {"kind": "tpu"}, "kind is 'tpu', not 'cpu', 'cuda' or 'published'"),
        (DOCUMENT | {"bandwidth": -1.0}, "bandwidth is -1.0, not a finite number above 0"),
        (DOCUMENT | {"bandwidth": "1e9"}, "bandwidth is '1e9', not a finite number above 0"),
        (DOCUMENT | {"bandwidth_error": True}, "bandwidth_error is True, not a finite number of at least 0"),
        (DOCUMENT | {"launch": math.nan}, "launch is nan, not a finite number above 0"),
        (DOCUMENT | {"launch": math.inf}, "launch is inf, not a finite number above 0"),
        (DOCUMENT | {"launch": 0}, "launch is 0, not a finite number above 0"),
        (DOCUMENT | {"versions": {"torch": 2}}, "the entry versions is {'torch': 2}, not an object of texts"),
        (DOCUMENT | {"rates": {}}, "the entry rates is {}, not a list"),
        (DOCUMENT | {"rates": []}, "rates are of no pair of formats"),
        (DOCUMENT | {"rates": [RATE, RATE]}, "rates have float32 x float32 twice"),
        (DOCUMENT | {"rates": [RATE, 3]}, "the entry rates[1] is 3, not an object"),
        (DOCUMENT | {"rates": [RATE | {"flops": -2.0}]}, "rates[0]: flops of float32 x float32 is -2.0, not a finite"),
        (DOCUMENT | {"rates": [RATE | {"first": "float33"}]}, "rates[0]: 'float33' x 'float32': unknown format"),
        (DOCUMENT | {"rates": [RATE | {"first": None}]}, "the entry rates[0].first is None, not a text"),
        (DOCUMENT | {"rates": [{"first": "float32"}]}, "rates[0] has no entry 'error'"),
        (
            DOCUMENT | {"measurements": [WORK | {"seconds": 0.0}]},
            "measurements[0]: seconds is 0.0, not a finite number",
        ),
        (DOCUMENT | {"measurements": [WORK | {"kind": "nap"}]}, "measurements[0]: kind is 'nap', not 'product'"),
        (DOCUMENT | {"measurements": [WORK | {"shape": [0]}]}, "the entry measurements[0].shape is [0], not a list of"),
        (DOCUMENT | {"measurements": [WORK | {"moved": None}]}, "measurements[0]: moved is None, not a finite number"),
    ],
)
def test_damaged_files_are_refused_by_the_entry(document: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PlanError, match=f"device.json' holds no figures of a device: {re.escape(message)}"):
        precc.Roofline(path)


def test_the_document_of_these_tests_is_whole(tmp_path: Path) -> None:
    (tmp_path / "device.json").write_text(json.dumps(DOCUMENT))
    assert DeviceFigures.load(tmp_path / "device.json").rates == (PairRate("float32", "float32", 1e9, 0.1),)


def test_files_that_hold_no_document(figures: DeviceFigures, tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    figures.save(path)
    whole = path.read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(PlanError, match="device.json' holds no figures of a device: no JSON: "):
            DeviceFigures.load(path)
    for content in (b"\xff\xfe\x00", None):
        path.write_bytes(content) if content else path.unlink()
        with pytest.raises(PlanError, match="cannot read the figures of a device .*device.json.*`precc calibrate`"):
            DeviceFigures.load(path)


def test_times_of_pairs_without_a_rate() -> None:
    with pytest.raises(PlanError, match="the figures of H100-SXM-published have no rate of int8 x int8"):
        PUBLISHED["H100-SXM-published"].seconds_of(TimedWork("product", "int8 x int8", (1, 1, 1), 2.0, 3.0, 1.0))


# --- the command


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(SIZES, "cpu", TINY)
    path = tmp_path / "device.json"
    assert main(["calibrate", "--device", "cpu", "--seconds", "0.01", "--out", str(path)]) == 0
    text = capsys.readouterr().out
    for part in (device_at_hand("cpu").name, "bfloat16 x bfloat16", "casts and copies", "smallest kernel", "wrote "):
        assert part in text
    assert precc.Roofline(path).device.kind == "cpu"


def test_the_command_names_single_sizes_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SIZES, "cpu", TINY)
    refuse_rows(monkeypatch, 64, "out of memory")
    assert main(["calibrate", "--device", "cpu", "--seconds", "0.01", "--out", str(tmp_path / "device.json")]) == 0
    assert "not measured: float32 x float32, 64 x 64 x 64: out of memory\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu", "--seconds", "nan"], "seconds is how long to measure"),
        (["--device", "cpu", "--out", "/absent/device.json"], "there is no folder '/absent'"),
    ],
)
def test_commands_that_fail(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SIZES, "cpu", TINY)
    assert main(["calibrate", "--seconds", "0.01", *arguments]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("precc: ")
    assert message in error
