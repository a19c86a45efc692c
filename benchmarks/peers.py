"""precc beside torchao, gfloat and microxcaling on 10,000 random blocks: how many elements have the same bits.

A peer that cannot be imported is left out; `--microxcaling` is a checkout of github.com/microsoft/microxcaling. Blocks
are finite float32 numbers from 2**-149 to 2**121, some zero, some subnormal; those of nvfp4 are within a factor of
2**20. tests/test_block_formats.py explains each difference. Writes benchmarks/results/peers.json.

usage: python benchmarks/peers.py [--microxcaling PATH]
"""

import argparse
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from torch import Tensor

import precc
from precc.files import write_whole

RESULT = Path(__file__).resolve().parent / "results" / "peers.json"
BLOCKS = 10_000
MICROXCALING = "microxcaling"
FLOATS = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4_e2m1")
Peer = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--microxcaling", type=Path, help="a checkout of the repository")
    options = parser.parse_args()
    if options.microxcaling is not None:
        sys.path.insert(0, str(options.microxcaling.resolve()))
    found = {name: dict(make()) for name, (module, make) in PEERS.items() if importlib.util.find_spec(module)}
    results = {peer: {name: compared(name, run) for name, run in runs.items()} for peer, runs in found.items()}
    document = environment()
    document["versions"].update({peer: version(peer, options.microxcaling) for peer in found})
    document |= {"setting": {"blocks": BLOCKS}, "peers": results}
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    print(json.dumps(document, indent=1))


def version(peer: str, checkout: Path | None) -> str:
    """Of an installed package, or the commit of a checkout."""
    if peer != MICROXCALING:
        return importlib.metadata.version(peer)
    if checkout is None:
        return "unknown"
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def compared(name: str, peer: Peer) -> dict[str, int]:
    """Elements with the same and with other bits, blocks that differ, and their kinds."""
    x = blocks(16, -14, 6) if name == "nvfp4" else blocks(32, -149, 121)
    ours, theirs = precc.round_to(x, name), peer(x)
    same = (ours.view(torch.int32) == theirs.view(torch.int32)) | (ours.isnan() & theirs.isnan())
    return {
        "equal": int(same.sum()),
        "different": int((~same).sum()),
        "different_only_in_the_sign_of_zero": int((~same & (ours == theirs)).sum()),
        "blocks_with_a_difference": int((~same).any(-1).sum()),
    }


def blocks(size: int, low: int, high: int) -> Tensor:
    """Rows of magnitudes about one power of two each; a tenth are zero, subnormal or next below a power of two."""
    rng = np.random.default_rng(2024)
    exponent = rng.integers(low, high, (BLOCKS, 1)) - rng.integers(0, 13, (BLOCKS, size))
    x = np.ldexp(rng.choice([-1.0, 1.0], (BLOCKS, size)) * rng.uniform(1, 2, (BLOCKS, size)), exponent)
    x = x.astype(np.float32)
    x[:100] = 0.0
    x[500:1000, 0] = np.nextafter(np.exp2(exponent[500:1000].max(-1) + 1.0).astype(np.float32), np.float32(0))
    if low < -126:
        x[100:500] = rng.integers(1, 2**23, (400, size)).astype(np.int32).view(np.float32)
    return torch.from_numpy(x)


def torchao_peers() -> Iterator[tuple[str, Peer]]:
    """MX with the floor rule, and NVFP4 with a scale of the tensor."""
    formats: Any = importlib.import_module("torchao.prototype.mx_formats.mx_tensor")
    nv: Any = importlib.import_module("torchao.prototype.mx_formats.nvfp4_tensor")
    elements = (torch.float8_e4m3fn, torch.float8_e5m2, "fp6_e3m2", "fp6_e2m3", torch.float4_e2m1fn_x2)

    def mx(element: Any) -> Peer:
        def run(x: Tensor) -> Tensor:
            scale, data = formats.to_mx(x, element, 32)
            return torch.as_tensor(formats.to_dtype(data, scale, element, 32, torch.float32)).reshape(x.shape)

        return run

    def nvfp4(x: Tensor) -> Tensor:
        scale = nv.per_tensor_amax_to_scale(x.abs().amax())
        return torch.as_tensor(nv.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale).dequantize())

    yield from ((name, mx(element)) for name, element in zip(FLOATS, elements, strict=True))
    yield "nvfp4", nvfp4


def gfloat_peers() -> Iterator[tuple[str, Peer]]:
    """Its scale of each block in float64, and its rounding of all of them at once."""
    gfloat: Any = importlib.import_module("gfloat")

    def mx(info: Any) -> Peer:
        def run(x: Tensor) -> Tensor:
            values = x.numpy().astype(np.float64)
            scales = np.array([gfloat.compute_scale_amax(info.etype.emax, block) for block in values])[:, None]
            rounded = gfloat.round_ndarray(info.etype, values / scales, gfloat.RoundMode.TiesToEven, True)
            return torch.from_numpy((rounded * scales).astype(np.float32))

        return run

    yield from {info.name: mx(info) for info in importlib.import_module("gfloat.formats").all_block_formats}.items()


def microxcaling_peers() -> Iterator[tuple[str, Peer]]:
    """Its PyTorch code, ties to even."""
    ops: Any = importlib.import_module("mx.mx_ops")

    def mx(element: str) -> Peer:
        return lambda x: torch.as_tensor(ops._quantize_mx(x, 8, element, axes=[-1], block_size=32, round="even"))

    elements = ("fp8_e4m3", "fp8_e5m2", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1", "int8")
    yield from ((name, mx(element)) for name, element in zip((*FLOATS, "mxint8"), elements, strict=True))


#: The module that must be importable, and what to compare.
PEERS: dict[str, tuple[str, Callable[[], Iterator[tuple[str, Peer]]]]] = {
    "torchao": ("torchao", torchao_peers),
    "gfloat": ("gfloat", gfloat_peers),
    MICROXCALING: ("mx", microxcaling_peers),
}


if __name__ == "__main__":
    main()
