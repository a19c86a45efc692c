"""Models that cannot run as they are: each works, or is one clear error that says what to do."""

import copy
import gc
import warnings
from pathlib import Path
from typing import Any, ClassVar
from weakref import ref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import precc
from precc.errors import CaptureError, PrecisionWarning, UnsupportedError
from precc.module import session_of
from tests.nets import Broken, LeNet5, equal, inputs_of, loss_and_gradients, uniform

ROLES = (
    "fprop.input", "fprop.weight", "dgrad.grad_output", "dgrad.weight", "wgrad.grad_output", "wgrad.input"
)  # fmt: skip
X = torch.linspace(-1, 1, 8).reshape(2, 4)


def compiled(model: nn.Module, policy: Any = "e4m3", **options: Any) -> precc.PrecisionModule:
    return precc.compile(model, policy=policy, backend="reference", **options)


def line_of(text: str, file: str = __file__) -> str:
    """``file:line`` of the only line of a file that has this text."""
    lines = Path(file).read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if line.strip() == text]
    return f"{file}:{number}"


class Sign(nn.Module):
    """Control flow that depends on data, inside of another module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        if hidden.sum() > 0:
            hidden = -hidden
        result: Tensor = self.second(hidden)
        return result


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.sign = nn.Linear(4, 4), Sign()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.sign(self.stem(x))
        return result


@pytest.mark.parametrize("whole", [True, False])
def test_a_graph_break_is_told_with_the_line_of_the_users_code(*, whole: bool) -> None:
    net = compiled(Outer(), regions=None if whole else ["stem", "sign"])
    where = line_of("if hidden.sum() > 0:")
    with pytest.warns(PrecisionWarning, match="is captured in pieces") as told:
        net(X)  # whose line the warning has
    calls = line_of("net(X)  # whose line the warning has" if whole else "result: Tensor = self.sign(self.stem(x))")
    assert {f"{warning.filename}:{warning.lineno}" for warning in told} == {calls}
    assert any(f"(Data-dependent branching at {where})" in str(warning.message) for warning in told)
    assert f"graph break: Data-dependent branching at {where}; what lies" in str(net.report()).replace("\n", " ")


@pytest.mark.filterwarnings("ignore::precc.errors.PrecisionWarning")
def test_the_parts_around_a_graph_break_round_each_for_itself() -> None:
    model = Sign()
    net = compiled(model, "e2m1")

    def rounded(x: Tensor, layer: nn.Linear) -> Tensor:
        low = [precc.round_to(value.detach(), "e2m1") for value in (x, layer.weight)]
        return F.linear(*low, layer.bias).detach()

    for x in (X, -3 * X, X + 1, X - 1):
        hidden = rounded(x, model.first)
        assert torch.equal(net(x), rounded(-hidden if hidden.sum() > 0 else hidden, model.second))
    net(X).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert {slot.split("/")[0] for slot in net.plan.slots} == {"first", "second"}


class BreaksInALoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.fc(x)
            torch._dynamo.graph_break()
        return x


def test_a_break_in_a_loop_of_the_model_itself_is_an_error_with_its_line() -> None:
    where = line_of("torch._dynamo.graph_break()")
    with pytest.raises(
        CaptureError, match=f"stopped by: Call to .*graph_break.* at {where}\\): .*breaks off in a loop"
    ):
        compiled(BreaksInALoop())(X)


def test_the_line_of_a_break_that_two_nets_have_is_told_for_both() -> None:
    where = line_of("torch._dynamo.graph_break()", str(Path(__file__).parent / "nets.py"))
    for _ in range(2):
        with pytest.warns(PrecisionWarning, match=where):
            compiled(Broken())(X)


def test_parameters_edited_in_place_are_seen_by_the_next_step() -> None:
    model = LeNet5()
    net, x = compiled(model), inputs_of(LeNet5())
    loss_and_gradients(net, x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5).add_(0.01)
        model.conv1.weight.clamp_(-0.05, 0.05)
    model.conv2.weight.data = 2 * model.conv2.weight.data
    graphs = net.compilations
    assert equal(loss_and_gradients(net, x), loss_and_gradients(compiled(model), x))
    assert net.compilations == graphs


class Complex(nn.Module):
    """A complex and a real matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc((x.to(torch.complex64) @ self.mix).abs())
        return result


def test_complex_products_stay_as_they_are_and_are_named() -> None:
    model = Complex()
    net = compiled(model)
    ours = net(X)
    low = [precc.round_to(v.detach(), "e4m3") for v in ((X.to(torch.complex64) @ model.mix).abs(), model.fc.weight)]
    assert torch.equal(ours, F.linear(*low, model.fc.bias))
    ours.sum().backward()
    assert model.mix.grad is not None
    assert model.mix.grad.is_complex()
    assert {slot.split("/")[0] for slot in net.plan.slots} == {"fc"}
    assert "not rounded: (root): aten.mm of vectors, integers or complex numbers" in str(net.report())


class Integers(nn.Module):
    """Integer parameters, in a product of integers and, converted, in one of floats."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.arange(16).reshape(4, 4) - 7, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x.long() @ self.table) + x @ self.table.float()


def test_integer_products_stay_exact() -> None:
    model = Integers()
    net = compiled(model, "e2m1")
    low = [precc.round_to(value, "e2m1") for value in (X, model.table.float())]
    assert torch.equal(net(X), (X.long() @ model.table) + low[0] @ low[1])
    assert "aten.mm of vectors, integers or complex numbers" in str(net.report())


def test_float64_parameters_train_and_are_rounded_when_a_plan_says_so() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    net = precc.compile(model, backend="reference")
    x = X.double()

    def gradients(module: nn.Module) -> list[Tensor]:
        module.zero_grad()
        module(x).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    exact = gradients(model)
    assert equal(gradients(net), exact)
    net.set_plan(uniform("e4m3"))
    rounded = gradients(net)
    assert not equal(rounded, exact)
    assert {gradient.dtype for gradient in rounded} == {torch.float64}


@pytest.mark.filterwarnings("error")
def test_a_gradient_of_a_gradient_is_one_clear_error() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    net = compiled(model)
    x = X.clone().requires_grad_()
    for _ in range(2):
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        with pytest.raises(
            UnsupportedError, match="create_graph=True.*compute that term with the model that was given"
        ):
            slope.square().sum().backward()
    (plain,) = torch.autograd.grad(net(x).sum(), x)
    assert torch.equal(plain, slope)  # the gradient itself is right
    (penalty,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)  # the way out
    (net(x).sum() + penalty.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_guard_of_double_backwards_keeps_no_graph_alive() -> None:
    net = compiled(nn.Linear(4, 4))
    output = net(X)
    node = ref(output.grad_fn)
    output.sum().backward()
    del output
    assert node() is None


def test_a_gradient_of_a_gradient_through_a_view_is_the_same_error() -> None:
    class Transposed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).tanh().T

    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(compiled(Transposed(4, 4))(x).sum(), x, create_graph=True)
    with pytest.raises(UnsupportedError, match="create_graph=True"):
        slope.square().sum().backward()


def test_create_graph_alone_does_no_harm() -> None:
    net = compiled(LeNet5())
    x = inputs_of(LeNet5())
    plain = loss_and_gradients(net, x)
    net.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch: the graph holds the parameters
        (net(x) * torch.linspace(-1, 1, 10)).square().mean().backward(create_graph=True)
    own = [parameter.grad.detach().clone() for parameter in net.parameters() if parameter.grad is not None]
    net.zero_grad()
    assert equal(own, plain[1:])


def test_a_break_is_listed_once() -> None:
    model = Broken()
    net = precc.compile(model, backend="reference")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for batch in (2, 3, 5):
            net(torch.randn(batch, 4)).sum().backward()
        with torch.no_grad():
            net(torch.randn(2, 4))
    lines = [note for note in net.report().notes if note.startswith("graph break")]
    assert len(lines) == len(set(lines))
    assert len([one for one in told if issubclass(one.category, precc.errors.PrecisionWarning)]) == 1


def test_second_derivatives_by_inputs_are_the_same_error_and_not_zero() -> None:
    net = compiled(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)))
    with pytest.raises(UnsupportedError, match="differentiated once more"):
        torch.autograd.functional.hessian(lambda x: net(x).sum(), X[0])
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    with pytest.raises(UnsupportedError, match="differentiated once more"):
        torch.autograd.grad(slope.sum(), x, allow_unused=True)


def test_many_gradients_at_once_are_one_clear_error() -> None:
    net = compiled(nn.Linear(4, 4))
    x = X[0].clone().requires_grad_()
    with pytest.raises(UnsupportedError, match="compute them one by one"):
        torch.autograd.grad(net(x), x, torch.eye(4), is_grads_batched=True)
    with pytest.raises(UnsupportedError, match="compute them one by one"):
        torch.autograd.functional.jacobian(net, X[0], vectorize=True)


class Slope(nn.Module):
    """A forward that takes a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(self.fc(x).square().sum(), x, create_graph=True)
        return slope


def test_a_gradient_inside_of_a_forward_is_told_with_its_line() -> None:
    where = line_of("(slope,) = torch.autograd.grad(self.fc(x).square().sum(), x, create_graph=True)")
    with pytest.warns(PrecisionWarning, match=where) as told:
        result = compiled(Slope())(X.clone().requires_grad_())
    assert len(told) == 1
    with pytest.raises(UnsupportedError, match="differentiated once more"):
        result.sum().backward()


def test_what_stops_the_capture_of_all_is_not_a_line_of_ours() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].register_full_backward_hook(lambda module, inputs, outputs: None)
    with pytest.raises(CaptureError, match="backwards hooks require compiled autograd") as told:
        compiled(model)(X)
    assert "precc/" not in str(told.value)


def test_transforms_and_modes_around_a_net_are_named() -> None:
    net = compiled(nn.Linear(4, 4))
    with pytest.raises(CaptureError, match=r"Linear is called inside of a transform of torch.func \(grad, vmap, jvp\)"):
        torch.vmap(net)(X)
    with FlopCounterMode(display=False), pytest.raises(CaptureError, match="is called inside of .*FlopCounterMode"):
        net(X)
    assert net(X).shape == (2, 4)


class TwoWays(nn.Module):
    """After a graph break it returns at once, goes on, or raises."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, way: str) -> Tensor:
        if way == "identity":
            return x
        hidden: Tensor = self.first(x)
        torch._dynamo.graph_break()  # its warning is tested above
        if way == "raise":
            raise ValueError("not this way")
        return self.second(hidden) if way == "on" else hidden


@pytest.mark.filterwarnings("ignore::precc.errors.PrecisionWarning")
@pytest.mark.parametrize("early", ["identity", "return", "raise"])
@pytest.mark.parametrize("late", [False, True])
def test_a_call_without_products_or_with_an_error_leaves_later_calls_rounded(early: str, late: bool) -> None:
    model = TwoWays()
    expected = compiled(model, "e2m1")(X, "on")
    net = compiled(model, "e2m1")
    for way in ["on", early, "on"] if late else [early, "on"]:
        if way == "raise":
            with pytest.raises(ValueError, match="not this way"):
                net(X, way)
        else:
            result = net(X, way)
    assert torch.equal(result, expected)
    first = {f"first/product/{role}" for role in ROLES if not role.startswith("dgrad")}
    assert set(net.plan.slots) == first | {f"second/product/{role}" for role in ROLES}


def test_a_call_with_wrong_arguments_leaves_later_calls_rounded() -> None:
    net = compiled(nn.Linear(4, 4))
    expected = net(X)
    with pytest.raises(TypeError, match="must be Tensor, not str"):
        net("text")
    assert torch.equal(net(X), expected)
    assert all("#" not in slot for slot in net.plan.slots)


def test_inputs_of_a_wrong_size_are_an_error_that_names_the_net() -> None:
    with pytest.raises(CaptureError, match="(?s)Linear fails on these inputs: .*(reduction dim|shapes)"):
        compiled(nn.Linear(3, 4))(X)


def test_a_module_without_a_forward_is_refused_at_once() -> None:
    with pytest.raises(CaptureError, match="a ModuleList has no forward"):
        compiled(nn.ModuleList([nn.Linear(4, 4)]))


def test_a_slice_of_a_net_is_no_net() -> None:
    part = compiled(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))[:1]  # type: ignore[index]
    with pytest.raises(CaptureError, match="take the slice of the model, and compile that"):
        part(X)


class OwnWays(nn.Module):
    """It makes instances, and copies, in ways of its own."""

    def __new__(cls, width: int) -> "OwnWays":
        return super().__new__(cls)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)

    def __copy__(self) -> "OwnWays":
        return OwnWays(4)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OwnWays":
        return OwnWays(4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(x)
        return result


@pytest.mark.parametrize("model", [OwnWays(4), torch.fx.symbolic_trace(Slope().fc)], ids=["own", "traced"])
@pytest.mark.parametrize("regions", [None, "*"])
def test_copies_of_models_with_a_copy_of_their_own_stay_nets(model: nn.Module, regions: str | None) -> None:
    inner = nn.Sequential(model) if regions else model
    net = precc.compile(inner, policy="e2m1", backend="reference", regions=regions)
    expected = net(X)
    for own in (copy.copy(net), copy.deepcopy(net)):
        assert torch.equal(own(X), expected)
        assert own.plan == net.plan


class Catches(nn.Module):
    """It goes on after an error of its own, raised after two graph breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, fails: bool) -> Tensor:
        hidden: Tensor = self.first(x)
        torch._dynamo.graph_break()  # once here
        try:
            return self.rest(hidden, fails)
        except ValueError:
            return hidden

    def rest(self, hidden: Tensor, fails: bool) -> Tensor:
        torch._dynamo.graph_break()  # and once here
        if fails:
            raise ValueError("caught by the model")
        result: Tensor = self.second(hidden)
        return result


def test_an_error_that_the_model_catches_is_told_and_leaves_later_calls_rounded() -> None:
    model = Catches()
    with pytest.warns(PrecisionWarning, match="is captured in pieces"):
        expected = compiled(model, "e2m1")(X, False)
    net = compiled(model, "e2m1")
    with pytest.warns(PrecisionWarning, match="is captured in pieces"):
        net(X, False)
    with pytest.warns(PrecisionWarning, match="An exception of the model in the code at .*test_bad_models.py"):
        net(X, True)
    for _ in range(2):
        assert torch.equal(net(X, False), expected)


class Breaks(nn.Module):
    """After a graph break it may raise one of precc's own errors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, *, fails: bool = False) -> Tensor:
        hidden = self.first(x)
        torch._dynamo.graph_break()  # before the error
        if fails:
            raise precc.FormatError("not this one")
        result: Tensor = self.second(hidden)
        return result


@pytest.mark.filterwarnings("ignore::precc.errors.PrecisionWarning")
@pytest.mark.parametrize("first", [False, True])
def test_an_error_of_ours_in_the_models_code_leaves_later_calls_rounded(first: bool) -> None:
    model = Breaks()
    expected = compiled(model, "e2m1")(X)
    net = compiled(model, "e2m1")
    if first:
        net(X)
    for _ in range(20):  # more than the graphs that Dynamo allows
        with pytest.raises(precc.FormatError, match="not this one"):
            net(X, fails=True)
        assert torch.equal(net(X), expected)
    assert net.compilations <= 4 + 2 * first
    assert len(session_of(net).graphs.current) <= 2 + first


class Branches(nn.Module):
    """Each task has a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, task: str) -> Tensor:
        if task == "neither":
            raise ValueError(task)
        result: Tensor = (self.a if task == "a" else self.b)(x)
        return result


@pytest.mark.parametrize("rebuilt", [False, True])
def test_slots_of_other_branches_stay_known_after_a_failed_call_or_new_graphs(rebuilt: bool) -> None:
    net = compiled(Branches())
    for task in "ab":
        net(X, task).sum().backward()
    slots = set(net.plan.slots)
    with pytest.raises(ValueError, match="neither"):
        net(X, "neither")
    if rebuilt:
        net.set_plan(precc.Uniform("e4m3", accumulator="e5m10").assign(), recompile=True)
    net(X, "a").sum().backward()
    net.set_plan(precc.PrecisionPlan("e4m3", {"b/product/fprop.weight": "fp32"}))
    assert set(net.plan.slots) == slots
    net(X, "b").sum().backward()
    assert set(net.plan.slots) == slots


@pytest.mark.filterwarnings("ignore::precc.errors.PrecisionWarning")
@pytest.mark.parametrize("model", [nn.Linear(4, 4), Breaks()], ids=["whole", "pieces"])
def test_graphs_go_with_their_net(model: nn.Module) -> None:
    net = compiled(model)
    net(X).sum().backward()
    compiler, compiled_graph = (ref(own) for own in _compiler_and_graph(net))
    del net
    gc.collect()
    assert (compiler(), compiled_graph()) == (None, None)


def _compiler_and_graph(net: precc.PrecisionModule) -> tuple[Any, Any]:
    """What makes the graphs of a net, and the first that it made."""
    (entry,) = session_of(net).builds.entries.values()
    return entry.compiler, entry.compiler._compiled[0].call


@pytest.mark.parametrize("frozen", [False, True])
def test_second_derivatives_by_what_another_function_made_are_the_same_error(frozen: bool) -> None:
    net = compiled(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).requires_grad_(not frozen))
    hidden = 2 * X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(hidden).sum(), hidden, create_graph=True)
    with pytest.raises(UnsupportedError, match="differentiated once more"):
        torch.autograd.grad(slope.square().sum(), hidden, allow_unused=True)


class Both(nn.Module):
    """A view of its input before its result."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(), (x @ x.T).sin()


def test_second_derivatives_through_a_net_that_returns_its_input_too_are_the_same_error() -> None:
    first, second = compiled(nn.Linear(4, 4)), compiled(Both())
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(second(first(x))[1].sum(), x, create_graph=True)
    with pytest.raises(UnsupportedError, match="differentiated once more"):
        torch.autograd.grad(slope.square().sum(), x, allow_unused=True)


def test_a_lazy_module_is_refused_with_the_way_out() -> None:
    with pytest.raises(CaptureError, match="LazyLinear has no parameters before its first call: call the model once"):
        compiled(nn.LazyLinear(3))
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 4))
    with pytest.raises(CaptureError, match="the region '0' has no parameters before its first call"):
        compiled(model, regions="*")
    assert compiled(model)(X).shape == (2, 4)


class Registered(nn.Module):
    """Its subclasses are known by a name, and must have one."""

    known: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, *, name: str) -> None:
        Registered.known[name] = cls


class Named(Registered, name="named"):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(x)
        return result


@pytest.mark.parametrize("regions", [None, "*"])
def test_classes_that_register_their_subclasses_do_not_see_the_nets(regions: str | None) -> None:
    net = compiled(nn.Sequential(Named()) if regions else Named(), regions=regions)
    assert net(X).shape == (2, 4)
    assert Registered.known == {"named": Named}


class Counts(nn.Module):
    """It counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.calls = nn.Linear(4, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = self.fc(x) / self.calls
        return result


def test_a_module_that_counts_its_calls_needs_no_graph_for_each() -> None:
    model = Counts()
    net = compiled(model, "fp32")
    for call in range(1, 13):
        assert torch.equal(net(X), model.fc(X) / call)
    assert net.compilations <= 2


@pytest.mark.parametrize("inner", [False, True])
def test_hooks_added_after_the_first_call_act(inner: bool) -> None:
    net = compiled(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    before = net(X)
    hooked = net[0] if inner else net  # type: ignore[index]
    handle = hooked.register_forward_hook(lambda module, inputs, output: 0 * output)
    assert torch.equal(net(X), 0 * before)
    handle.remove()
    assert torch.equal(net(X), before)
