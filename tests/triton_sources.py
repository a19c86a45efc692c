"""Kernels for tests of what compiles and loads them."""

from precc.backends.triton.kernel_source import Argument, KernelSource

_HEAD = "import triton\nimport triton.language as tl\n\n\n"

DOUBLED = KernelSource(
    name="doubled",
    template="test",
    text=f"""{_HEAD}@triton.jit
def doubled(x, y, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < count) * 2.0 + 1.0, mask=at < count)
""",
    arguments=(Argument("x", "*fp32"), Argument("y", "*fp32"), Argument("count", "i32")),
    tile={"BLOCK": 256},
)


def product(kind: str, size: int = 64, *, num_warps: int = 4) -> KernelSource:
    """The product of two square tiles of a type of Triton's."""
    return KernelSource(
        name=f"product_{kind}",
        template="test",
        text=f"""{_HEAD}@triton.jit
def product_{kind}(a, b, c, SIZE: tl.constexpr):
    row = tl.arange(0, SIZE)
    at = row[:, None] * SIZE + row[None, :]
    total = tl.dot(tl.load(a + at), tl.load(b + at).trans(), out_dtype=tl.float32)
    tl.store(c + at, total)
""",
        arguments=(Argument("a", f"*{kind}"), Argument("b", f"*{kind}"), Argument("c", "*fp32")),
        tile={"SIZE": size},
        num_warps=num_warps,
    )


#: What cannot be compiled, and why.
WRONG = KernelSource(
    name="wrong",
    template="test",
    text=f"{_HEAD}@triton.jit\ndef wrong(x):\n    tl.store(x, missing)\n",
    arguments=(Argument("x", "*fp32"),),
)
