"""What of a kernel's text says what it computes, and what are names alone."""

import re
from dataclasses import replace

import pytest
import torch

from precc.backends.triton import compiler, load
from precc.backends.triton.compiler import compiled
from precc.backends.triton.computation import computation, computed
from precc.backends.triton.device import DEVICES
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.load import launch
from tests.llama_block import LlamaBlock
from tests.test_triton_targets import HIDDEN, PLANS, WIDTH, listed
from tests.triton_sources import DOUBLED, WRONG


def renamed(source: KernelSource, **names: str) -> KernelSource:
    """The same kernel under other names, with a comment."""
    text = source.text
    for old, new in names.items():
        text = re.sub(rf"\b{old}\b", new, text)
    arguments = tuple(replace(own, name=names.get(own.name, own.name)) for own in source.arguments)
    head, body = text.split(":\n", 1)
    text = f"{head}:\n    # {source.name} again\n{body}"
    return replace(source, name=names.get(source.name, source.name), text=text, arguments=arguments)


ALIKE = renamed(DOUBLED, doubled="again", x="input", y="output", at="offset")


def test_names_and_comments_are_left_out() -> None:
    assert computed(ALIKE) == computed(DOUBLED)
    assert "again" not in computation(ALIKE.text, "again")


@pytest.mark.parametrize(
    "other",
    [
        replace(DOUBLED, text=DOUBLED.text.replace("2.0", "3.0")),
        replace(DOUBLED, text=DOUBLED.text.replace("at < count", "count < at")),
        replace(DOUBLED, text=DOUBLED.text.replace("(x, y, count,", "(y, x, count,")),
        replace(DOUBLED, arguments=(replace(DOUBLED.arguments[0], type="*bf16"), *DOUBLED.arguments[1:])),
        replace(DOUBLED, tile={"BLOCK": 128}),
        replace(DOUBLED, num_warps=8),
        replace(DOUBLED, num_stages=2),
    ],
    ids=["a number", "an order", "arguments", "a type", "a tile", "warps", "stages"],
)
def test_all_else_is_not(other: KernelSource) -> None:
    assert computed(other) != computed(DOUBLED)


def test_what_other_functions_of_the_text_do_is_not_left_out() -> None:
    texts = [
        f"def rounded(x):\n    return x * {n}.0\n\ndef kernel(x):\n    y = rounded(x)\n    return y\n" for n in (2, 3)
    ]
    assert computation(texts[0], "kernel") != computation(texts[1], "kernel")


def test_one_of_each_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ask = [], compiler._worker.ask
    monkeypatch.setattr(compiler._worker, "ask", lambda question: asked.append(question["name"]) or ask(question))
    wrong = renamed(WRONG, wrong="false")
    found = compiled([DOUBLED, WRONG, ALIKE, wrong], DEVICES["sm_90"])
    assert asked == ["doubled", "wrong"]
    assert found[0] == found[2]
    assert str(found[1]).startswith("wrong does not")
    assert str(found[3]).startswith("false does not")


def test_one_of_each_is_loaded() -> None:
    """Under the names of the first; the files are those of each."""
    assert load._function(DOUBLED) is load._function(ALIKE)
    assert load.source_path(ALIKE).read_text() == ALIKE.text
    x, y = torch.arange(300.0), torch.empty(300)
    launch(ALIKE, (2,), (x, y, 300))
    assert torch.equal(y, x * 2 + 1)


def test_layers_that_are_alike_share_their_kernels() -> None:
    """In a block whose linear layers are of three sizes."""
    kernels = listed(LlamaBlock(WIDTH, 4, HIDDEN), PLANS["e4m3"], DEVICES["sm_90"]).kernels
    assert len(kernels) > 2 * len({computed(own) for own in kernels})


def test_functions_that_are_called_as_numbers_are() -> None:
    """A function of the text is not taken for an argument."""
    text = "@triton.jit\ndef _0(a):\n    return a\n\n\n@triton.jit\ndef kernel(a):\n    b = {}(a)\n"
    assert computation(text.format("_0"), "kernel") != computation(text.format("a"), "kernel")
