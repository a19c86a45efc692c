"""What is compiled when a plan is set is what runs under it."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

import precc
from precc.backends.triton import compiler, load
from precc.backends.triton.device import DEVICES
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.load import launches
from precc.backends.triton.running_group import RunningGroup
from tests.test_triton_training import MIXED, NETS, UNIFORM, Net

#: Without slots of results, for which graphs are built again.
PLANS = {"mixed": precc.PrecisionPlan("mxfp8", rules=MIXED.rules), "e4m3": UNIFORM}

Asked = tuple[KernelSource, tuple[int, ...], tuple[object, ...]]


def arguments(args: Sequence[Any]) -> tuple[object, ...]:
    """What Triton tells apart: dtypes of tensors, and numbers."""
    return tuple(own.dtype if isinstance(own, Tensor) else own for own in args)


def step(net: precc.PrecisionModule, own: Net) -> None:
    net.zero_grad()
    own.loss(net(own.inputs())).backward()


@pytest.mark.parametrize("name", ["mlp", *(pytest.param(own, marks=pytest.mark.slow) for own in NETS if own != "mlp")])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_kernels_of_a_plan_are_compiled_when_it_is_set(
    name: str, plan: precc.PrecisionPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Asked] = []

    def note(source: KernelSource, grid: tuple[int, ...], args: Sequence[Any]) -> None:
        compiled.append((source, grid, arguments(args)))

    monkeypatch.setattr(load, "_without_spills", note)
    monkeypatch.setattr(RunningGroup, "_compiles", True)
    torch.manual_seed(0)
    own = NETS[name]
    net = precc.compile(own.make(), plan=precc.PrecisionPlan("float32"), backend="triton")
    step(net, own)
    assert not compiled
    net.set_plan(plan)
    assert compiled
    with launches() as launched:
        step(net, own)
    wanted = {(own.source, own.grid, arguments(own.args)) for own in launched}
    assert wanted <= set(compiled)
    compiled.clear()
    net.set_plan(precc.PrecisionPlan("float32"))
    net.set_plan(plan)
    assert not compiled


class Compiled:
    """What Triton gives of a kernel on a GPU."""

    def __init__(self, spills: int, fits: bool = True) -> None:
        self.n_spills, self._fits = spills, fits

    @property
    def run(self) -> None:
        if not self._fits:
            raise OutOfResources(1, 0, "shared memory")


class Function:
    """A kernel of Triton that notes what it is asked for; what spills is by numbers of warps and stages."""

    def __init__(self, found: dict[tuple[int, int], Compiled]) -> None:
        self.found, self.asked, self.ran = found, list[tuple[Any, ...]](), list[tuple[Any, ...]]()

    def warmup(self, *args: Any, grid: tuple[int, ...], num_warps: int, num_stages: int, **options: Any) -> Compiled:
        self.asked.append((args, grid, num_warps, num_stages, options))
        return self.found.get((num_warps, num_stages), Compiled(8))

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args, num_warps, num_stages, **options: self.ran.append((grid, num_warps, num_stages))


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(load, "_chosen", {})


SOURCE = KernelSource("kernel", "cast", "", (), {"BLOCK": 64}, num_warps=4, num_stages=2)


@pytest.mark.usefixtures("on_a_gpu")
def test_a_kernel_is_compiled_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton is asked for the dtypes of tensors, and for the numbers as they are."""
    function = Function({(4, 2): Compiled(0)})
    monkeypatch.setattr(load, "_function", lambda source: function)
    with load.compiling():
        load.launch(SOURCE, (3,), (torch.empty(4, device="meta", dtype=torch.bfloat16), 7))
    assert function.asked == [((torch.bfloat16, 7), (3,), 4, 2, {"BLOCK": 64, "enable_fp_fusion": False})]
    assert not function.ran
    load.launch(SOURCE, (3,), (torch.empty(4, dtype=torch.bfloat16), 7))
    assert len(function.asked) == 1
    assert function.ran == [((3,), 4, 2)]


CASES: dict[str, tuple[dict[tuple[int, int], Compiled], tuple[int, int]]] = {
    "more warps": ({(8, 2): Compiled(0), (4, 1): Compiled(0)}, (8, 2)),
    "fewer stages": ({(4, 1): Compiled(0), (2, 2): Compiled(0), (8, 2): Compiled(0, fits=False)}, (4, 1)),
    "fewer warps": ({(2, 2): Compiled(0)}, (2, 2)),
    "all spill": ({}, (4, 2)),
    "none": ({(4, 2): Compiled(0), (8, 2): Compiled(0)}, (4, 2)),
}


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("name", CASES)
def test_where_registers_spill_a_variant_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that does not, as `compiled` says of a GPU that is not there; found once."""
    found, wanted = CASES[name]
    function = Function(found)
    monkeypatch.setattr(load, "_function", lambda source: function)
    for _ in range(2):
        load.launch(SOURCE, (3,), (7,))
    assert function.ran == [((3,), *wanted)] * 2
    assert len(function.asked) == len({own[2:4] for own in function.asked})
    answers = {
        warps_and_stages: {"facts": {"spills": own.n_spills, "shared_memory": 0 if own._fits else 1 << 30}}
        for warps_and_stages, own in found.items()
    }
    spilled = {"facts": {"spills": 8, "shared_memory": 0}}

    def ask(question: dict[str, Any]) -> dict[str, Any]:
        key = question["options"]["num_warps"], question["options"]["num_stages"]
        return {"key": key, **answers.get(key, spilled)}

    monkeypatch.setattr(compiler._worker, "ask", ask)
    assert compiler._answer(SOURCE, DEVICES["sm_90"])["key"] == wanted
