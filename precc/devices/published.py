"""Figures of devices from publications, for plans without a device at hand."""

from dataclasses import replace

from precc.devices.figures import DeviceFigures
from precc.devices.timed_work import PairRate

__all__ = ["PUBLISHED"]

# What products achieve. bfloat16: 732e12 of a peak of 989e12 flop/s, cuBLAS; fp8: 1267e12 of 1979e12, `_scaled_mm` with
# fast accumulation; both of large shapes, beside public measurements from 585e12 to 755e12 and from 1061e12 to 1359e12
# (triton-lang/triton#5461, pytorch/FBGEMM#2766, pytorch/pytorch#155507). float16 has the peak of bfloat16. Of tfloat32,
# float32 and float64 the same share of their peaks, 494e12, 67e12 and 67e12 (data sheet of the H100 SXM), is an
# assumption.
_BF16, _FP8 = 732e12, 1267e12
_SHARE = _BF16 / 989e12

_H100 = DeviceFigures(
    name="H100-SXM-published",
    kind="published",
    target="sm_90",
    rates=(
        PairRate("float64", "float64", 67e12 * _SHARE),
        PairRate("float32", "float32", 67e12 * _SHARE),
        PairRate("tfloat32", "tfloat32", 494e12 * _SHARE),
        PairRate("float16", "float16", _BF16),
        PairRate("bfloat16", "bfloat16", _BF16),
        PairRate("float8_e4m3fn", "float8_e4m3fn", _FP8),
        PairRate("float8_e4m3fn", "float8_e5m2", _FP8),
        PairRate("float8_e5m2", "float8_e5m2", _FP8),  # wgmma has it at the same rate; cuBLAS has no such product
    ),
    # 3.35e12 bytes/s by the data sheet; 92% of the memory's peak and 2 microseconds a kernel: torchao,
    # torchao/testing/training/roofline_utils.py
    bandwidth=0.92 * 3.35e12,
    launch=2e-6,
)

#: By name. The H200 is the H100 with 4.8e12 bytes/s (data sheet).
PUBLISHED: dict[str, DeviceFigures] = {
    own.name: own for own in (_H100, replace(_H100, name="H200-SXM-published", bandwidth=0.92 * 4.8e12))
}
