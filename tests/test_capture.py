"""What cannot be captured, or must not run in silence, is one clear error with the way out."""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.errors import (
    BackendError,
    CaptureError,
    DeviceError,
    FormatError,
    PlanError,
    PreccError,
    PrecisionWarning,
    RecompileLimitError,
)
from precc.models.lenet5 import LeNet5
from precc.module import PUBLIC_NAMES
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.strict_dynamo import HAS_ISOLATION
from tests.nets import Broken, inputs_of, uniform

LINEAR_INPUT = torch.ones(2, 4)


def compiled(model: nn.Module, **options: Any) -> precc.PrecisionModule:
    return precc.compile(model, **{"backend": "reference", **options})


def test_names_and_classes_stay_the_models() -> None:
    model = LeNet5()
    before = dict(model.__dict__)
    net = compiled(model)
    assert isinstance(net, LeNet5)
    assert [name for name, _ in net.named_modules()] == [name for name, _ in model.named_modules()]
    assert list(net.state_dict()) == list(model.state_dict())
    assert all(a is b for a, b in zip(net.parameters(), model.parameters(), strict=True))
    assert model.__dict__ == before
    assert type(model) is LeNet5
    net.to(torch.float64)
    assert next(model.parameters()).dtype == torch.float64


def test_the_model_itself_computes_as_before() -> None:
    model = LeNet5()
    x = inputs_of(model)
    expected = model(x)
    net = compiled(model, policy="e2m1")
    assert not torch.equal(net(x), expected)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_an_attribute_by_one_of_the_nets_names_is_an_error(name: str) -> None:
    model = nn.Linear(2, 2)
    setattr(model, name, nn.Linear(2, 2))
    with pytest.raises(CaptureError, match=f"attribute '{name}' of its own"):
        compiled(model)


def test_what_is_no_model() -> None:
    with pytest.raises(CaptureError, match="takes an nn.Module, not function"):
        precc.compile(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(CaptureError, match="torch.compile already"):
        precc.compile(torch.compile(nn.Linear(2, 2)))  # type: ignore[arg-type]
    net = compiled(nn.Linear(2, 2))
    with pytest.raises(CaptureError, match="it is a compiled net already"):
        precc.compile(net)
    with pytest.raises(CaptureError, match="submodule '1' is a compiled net"):
        precc.compile(nn.Sequential(nn.ReLU(), net))


def test_options_are_checked_at_once(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(BackendError, match="'auto', 'inductor', 'cpp', 'reference'"):
        precc.compile(model, backend="tpu")
    with pytest.raises(FormatError, match="policy 'fp9'"):
        precc.compile(model, policy="fp9")
    with pytest.raises(PlanError, match="not both"):
        precc.compile(model, policy="e4m3", plan=uniform("e4m3"))
    with pytest.raises(PlanError, match="cannot read the plan"):
        precc.compile(model, plan=tmp_path / "absent.json")
    with pytest.raises(PlanError, match=r"policy\.assign\(net"):
        precc.compile(model, plan=precc.Uniform("e4m3"))  # type: ignore[arg-type]


def test_a_plan_file_is_a_plan(tmp_path: Path) -> None:
    uniform("e4m3").save(tmp_path / "plan.json")
    assert compiled(nn.Linear(2, 2), plan=str(tmp_path / "plan.json")).plan == uniform("e4m3")


def test_unknown_slots_are_errors_once_a_training_graph_is_known() -> None:
    net = compiled(nn.Linear(4, 4))
    wrong = PrecisionPlan(Precision(precc.FORMATS["float32"]), {"fc9/product/fprop.input": uniform("e4m3").default})
    net.set_plan(wrong)  # nothing is known yet
    for _ in range(2):
        with pytest.raises(PlanError, match="'fc9/product/fprop.input'; did you mean 'product/fprop.input'"):
            net(LINEAR_INPUT)
    net.set_plan(uniform("e4m3"))
    net(LINEAR_INPUT)
    before = net.plan
    with pytest.raises(PlanError, match="fc9"):
        net.set_plan(wrong)
    assert net.plan == before


def test_set_plan_takes_plans_only() -> None:
    net = compiled(nn.Linear(4, 4))
    with pytest.raises(PlanError, match="cannot read the plan 'e4m3'"):
        net.set_plan("e4m3")
    with pytest.raises(PlanError, match="a plan is a PrecisionPlan"):
        net.set_plan(None)  # type: ignore[arg-type]


class Unchanged(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


def test_a_call_without_an_operation_works_and_one_that_cannot_be_captured_is_an_error() -> None:
    net = compiled(Unchanged())
    assert torch.equal(net(LINEAR_INPUT), LINEAR_INPUT)
    with torch.compiler.set_stance("force_eager"), pytest.raises(CaptureError, match="ran no captured graph"):
        net(LINEAR_INPUT)


def test_the_reason_of_a_failed_capture_is_given() -> None:
    class Stopped(nn.Module):
        @torch.compiler.disable
        def inner(self, x: Tensor) -> Tensor:
            return x @ x.T

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = self.inner(x)
            return x

    with pytest.raises(CaptureError, match="ran no captured graph, so nothing was rounded .stopped by"):
        compiled(Stopped())(LINEAR_INPUT)


def test_compilation_switched_off_is_an_error() -> None:
    net = compiled(nn.Linear(4, 4), policy="e4m3")
    with torch.compiler.set_stance("force_eager"), pytest.raises(CaptureError, match="ran no captured graph"):
        net(LINEAR_INPUT)
    net(LINEAR_INPUT)


class Uncapturable(nn.Module):
    """No tensor operation that can be captured: each one is hidden from the compiler."""

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        return x @ x.T


def test_a_model_that_cannot_be_captured_at_all() -> None:
    with pytest.raises(CaptureError, match="ran no captured graph"):
        compiled(Uncapturable())(LINEAR_INPUT)
    with pytest.raises(CaptureError, match="cannot be captured"):
        compiled(Uncapturable(), fullgraph=True)(LINEAR_INPUT)


def test_fullgraph_makes_graph_breaks_errors() -> None:
    with pytest.raises(CaptureError, match="cannot be captured"):
        compiled(Broken(), fullgraph=True)(LINEAR_INPUT)


class EveryLength(nn.Module):
    """Needs a graph for each value of n."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, n: str) -> Tensor:
        result: Tensor = self.fc(x) * len(n)
        return result


def test_the_recompile_limit_is_an_error_and_nothing_is_lost() -> None:
    net = compiled(EveryLength(), policy="e4m3")
    limit = torch._dynamo.config.recompile_limit
    expected = [net(LINEAR_INPUT, "a" * n) for n in range(1, limit + 1)]
    for _ in range(2):
        with pytest.raises(RecompileLimitError, match="EveryLength needs more than .*recompile_limit = 8"):
            net(LINEAR_INPUT, "a" * 100)
        again = [net(LINEAR_INPUT, "a" * n) for n in range(1, limit + 1)]
        assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))
    assert net.compilations == limit


class EveryLengthAfterABreak(EveryLength):
    """The same, in the code that follows a graph break."""

    def forward(self, x: Tensor, n: str) -> Tensor:
        x = self.fc(x)
        torch._dynamo.graph_break()
        return x * len(n)


def test_the_recompile_limit_holds_after_a_graph_break_too() -> None:
    net = compiled(EveryLengthAfterABreak(), policy="e4m3")
    with pytest.warns(PrecisionWarning):
        net(LINEAR_INPUT, "a")

    def lengthen() -> None:
        for n in range(2, 20):
            net(LINEAR_INPUT, "a" * n)

    with pytest.raises(RecompileLimitError, match="needs more than"):
        lengthen()


def test_suppressed_errors_do_not_become_silent_fp32() -> None:
    with torch._dynamo.config.patch(suppress_errors=True):
        net = compiled(
            nn.Linear(4, 4),
            plan=PrecisionPlan(uniform("e4m3").default, {"x/product/fprop.input": Precision(precc.FORMATS["float32"])}),
        )
        with pytest.raises(PlanError):
            net(LINEAR_INPUT)


def test_tensors_on_another_device() -> None:
    net = compiled(nn.Linear(4, 4))
    with pytest.raises(DeviceError, match=r"Linear is on cpu, but an input of shape \[2, 4\] is on meta"):
        net(LINEAR_INPUT.to("meta"))
    assert net(LINEAR_INPUT).shape == (2, 4)


def test_export_of_a_compiled_net_points_to_ours() -> None:
    with pytest.raises(CaptureError, match=r"precc\.export_onnx"):
        torch.export.export(compiled(nn.Linear(4, 4)), (LINEAR_INPUT,))


def test_a_net_inside_torch_compile_still_rounds() -> None:
    net = compiled(nn.Linear(4, 4), policy="e2m1")
    expected = net(LINEAR_INPUT)
    step = torch.compile(lambda x: net(x) + 1, backend="eager")
    assert torch.equal(step(LINEAR_INPUT), expected + 1)
    fresh = precc.compile(precc.module.original(net), policy="e2m1", backend="reference")
    assert torch.equal(torch.compile(fresh, backend="eager")(LINEAR_INPUT), expected)
    assert fresh.compilations == 1


def test_torch_compile_does_not_trace_what_precc_does_around_a_net() -> None:
    net = compiled(nn.Sequential(nn.Linear(4, 4)), policy="e2m1", rules=[precc.Rule("0", role="wgrad", keep="fp32")])
    step = torch.compile(lambda x: net(x).sum(), backend="eager")
    step(LINEAR_INPUT).backward()  # a cached function of precc's, if traced, is a warning
    assert net.report().rows[0].formats == ("float4_e2m1fn", "-", "float32")


@pytest.mark.parametrize("path", ["", "1"])
def test_a_forward_that_was_replaced_by_a_bound_method_leaves_the_names(path: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    expected = set(net_slots(model))
    wrapped = model.get_submodule(path)
    wrapped.forward = MethodType(lambda self, x: type(self).forward(self, x), wrapped)  # type: ignore[method-assign]
    assert set(net_slots(model)) == expected


def net_slots(model: nn.Module) -> Iterable[str]:
    net = compiled(model, policy="e4m3")
    net(LINEAR_INPUT).sum().backward()
    return net.plan.slots


class VectorProducts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x @ x[0]) * torch.dot(x[0], x[1])


def test_products_with_vectors_are_named_too() -> None:
    net = compiled(VectorProducts())
    net(torch.randn(3, 4))
    text = str(net.report())
    assert "aten.mv has no slots" in text
    assert "aten.dot has no slots" in text


def test_integer_products_are_left_alone() -> None:
    class Integers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.T

    net = compiled(Integers(), policy="e4m3")
    x = torch.arange(6).reshape(2, 3)
    assert torch.equal(net(x), x @ x.T)


def test_double_models_stay_double_until_a_plan_says_otherwise() -> None:
    model = nn.Linear(4, 4).double()
    net = compiled(model)
    x = torch.randn(2, 4, dtype=torch.float64)
    assert torch.equal(net(x), model(x))
    assert net.plan == uniform("float64")
    net.set_plan(uniform("float32"))
    assert not torch.equal(net(x), model(x))


def test_autocast_operands_are_rounded_in_their_own_dtype() -> None:
    net = compiled(nn.Linear(4, 4), policy="e4m3")
    with torch.autocast("cpu", torch.bfloat16):
        low = net(LINEAR_INPUT)
    assert low.dtype == torch.bfloat16
    rounded = [precc.round_to(value.detach().bfloat16(), "e4m3") for value in (LINEAR_INPUT, net.weight)]
    assert torch.equal(low, F.linear(*rounded, net.bias.bfloat16()))
    low.sum().backward()


def test_work_is_counted_at_the_sizes_that_ran() -> None:
    model = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 2, bias=False))
    net = compiled(model, policy="e4m3")
    for batch in (2, 3, 5):
        net(torch.randn(batch, 8)).sum().backward()
    net.set_plan(uniform("bf16"))
    with torch.no_grad():
        net(torch.randn(7, 8))
    # an image: 32 + 8 forward, 32 wgrad, 8 dgrad + 8 wgrad
    assert net.precision_state()["multiply_adds"] == {"float8_e4m3fn": 10 * 88, "bfloat16": 7 * 40}


def test_state_dicts_carry_no_precision_state() -> None:
    net = compiled(nn.Linear(4, 4), policy="e4m3")
    assert set(net.state_dict()) == {"weight", "bias"}
    known = {"plan", "rules", "multiply_adds", "bits", "events", "history", "amax", "calibration"}
    assert set(net.precision_state()) == known


def test_hooks_of_the_net_are_its_own() -> None:
    model = nn.Linear(4, 4)
    net = compiled(model)
    net.register_forward_hook(lambda module, args, output: output + 1)
    assert torch.allclose(net(LINEAR_INPUT), model(LINEAR_INPUT) + 1)


def test_every_error_of_ours_is_a_precc_error() -> None:
    from precc import errors

    classes = [value for name, value in vars(errors).items() if name.endswith("Error")]
    assert all(issubclass(value, PreccError) for value in classes)


@pytest.fixture
def _no_compiler(tmp_path: Path) -> Iterator[None]:
    from torch._inductor import config

    with config.patch({"cpp.cxx": (str(tmp_path / "no-such-compiler"),)}):
        yield


@pytest.mark.usefixtures("_no_compiler")
def test_inductor_without_a_compiler_says_so() -> None:
    with pytest.raises(BackendError, match="needs a C\\+\\+ compiler.*backend='reference'"):
        precc.compile(nn.Linear(2, 2), backend="inductor")


def test_loss_inside_a_net_and_keyword_arguments() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor, *, labels: Tensor | None = None) -> dict[str, Tensor]:
            logits = self.fc(x)
            return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}

    net = compiled(WithLoss(), policy="e4m3")
    net(LINEAR_INPUT, labels=torch.tensor([0, 1]))["loss"].backward()
    assert set(net(LINEAR_INPUT)) == {"logits"}


def test_a_graph_break_names_what_lies_outside_of_the_graphs_for_each_net() -> None:
    for _ in range(2):  # the second net of a class hears of it too
        net = compiled(nn.Sequential(nn.Linear(4, 4), Broken(), nn.Linear(4, 4)), policy="e2m1")
        with pytest.warns(PrecisionWarning, match=r"weights 0\.weight, 2\.weight are in no graph"):
            net(LINEAR_INPUT)
        text = str(net.report())
        assert "graph break: Call to `torch._dynamo.graph_break()`" in text
        assert "in no graph so far (unused, in a like module's graph, or unrounded outside): 0.weight, 2.weight" in text
        assert "no product that precc knows of" not in text


@pytest.mark.skipif(not HAS_ISOLATION, reason="this torch counts graphs of all nets of a class against one limit")
def test_twelve_nets_with_graph_breaks_each_run_their_own_plan() -> None:
    names = ["e4m3", "e5m2", "bf16", "e5m10", "e4m5", "e2m1", "fp32", "e3m4", "e5m4", "tf32", "e2m3", "e3m2"]
    model = Broken()
    x = torch.randn(2, 4)
    for name in names:
        net = compiled(model, policy=name)
        with pytest.warns(PrecisionWarning):
            ours = net(x)
        low = x
        for _ in range(2):
            weight = precc.round_to(model.fc.weight.detach(), name)
            low = F.linear(precc.round_to(low, name), weight, model.fc.bias).detach()
        assert torch.equal(ours, low), name


class Branches(nn.Module):
    """A product inside each branch of a torch.cond."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.cond(x.sum() > 0, lambda y: y @ self.w, lambda y: y @ self.w + 1, (x,))
        return result


def test_products_inside_control_flow_are_named() -> None:
    net = compiled(Branches(), policy="e2m1")
    with torch.no_grad():
        net(LINEAR_INPUT)
    assert "not rounded: (root): products inside cond have no slots" in str(net.report())


@torch.library.custom_op("precc_tests::product", mutates_args=())
def opaque_product(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


@opaque_product.register_fake
def _(x: Tensor, w: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[1])


def test_operators_that_precc_does_not_know_are_named() -> None:
    class Opaque(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return opaque_product(x, x.T) + torch.cdist(x, x)

    net = compiled(Opaque(), policy="e2m1")
    net(torch.randn(3, 4))
    text = str(net.report())
    assert "precc_tests.product is an operator that precc does not know" in text
    assert "dist" in text


def test_an_error_of_the_users_is_not_blamed_on_devices() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        compiled(Picky())(LINEAR_INPUT, LINEAR_INPUT.to("meta"))


@pytest.mark.parametrize("how", ["converted after", "no parameters", "a product inside"])
def test_doubles_are_not_rounded_unless_a_plan_says_so(how: str) -> None:
    class Inside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.double() @ x.double().T

    model: nn.Module = nn.Linear(4, 4) if how == "converted after" else Inside()
    net = compiled(model)
    x = torch.randn(3, 4)
    if how == "converted after":
        net(x)
        net.to(torch.float64)
    x = x if how == "a product inside" else x.double()
    assert torch.equal(net(x), model(x))


def test_a_saved_plan_fits_a_net_whose_graphs_come_one_by_one() -> None:
    class TwoPaths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, which: bool) -> Tensor:
            result: Tensor = self.a(x) if which else self.b(x)
            return result

    model = TwoPaths()
    net = compiled(model, policy="e4m3")
    expected = [net(LINEAR_INPUT, which) for which in (True, False)]
    other = compiled(model, plan=PrecisionPlan.from_json(net.plan.to_json()))
    assert all(torch.equal(other(LINEAR_INPUT, w), y) for w, y in zip((True, False), expected, strict=True))
    assert other.plan == net.plan


def test_a_policy_must_return_a_plan() -> None:
    class Wrong:
        def assign(self, analysis: object | None = None) -> str:
            return "e4m3"

    with pytest.raises(PlanError, match="returned str, not a PrecisionPlan"):
        compiled(nn.Linear(4, 4), policy=Wrong())


def test_a_call_of_the_models_own_is_refused() -> None:
    class Counting(nn.Linear):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) + 1

    with pytest.raises(CaptureError, match="Counting has a __call__ of its own"):
        compiled(Counting(4, 4))


@pytest.mark.parametrize("quoted", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_space_in_the_path_of_torch_does_not_break_the_link(
    quoted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache
    from torch.utils import cpp_extension

    from precc.backends import inductor

    library = tmp_path / "a path" / "lib"
    library.parent.mkdir()
    library.symlink_to(cpp_extension.TORCH_LIB_PATH)
    monkeypatch.setattr(cpp_extension, "TORCH_LIB_PATH", str(library))
    if not quoted:  # the planted defect
        monkeypatch.setattr(inductor, "_quoted_torch_library_path", nullcontext)
    with fresh_cache(), config.patch(cpp_cache_precompile_headers=False):  # which takes longer than to read them once
        net = compiled(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), policy="e4m3", backend="inductor")
        with nullcontext() if quoted else pytest.raises(BackendError, match="failed on a forward graph"):
            net(LINEAR_INPUT)


def test_matmul_takes_the_keywords_of_torch() -> None:
    class Keywords(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.matmul(x, other=x.T) + x.matmul(other=x.T) + torch.matmul(input=x, other=x.T)

    net = compiled(Keywords())
    assert torch.allclose(net(LINEAR_INPUT), 3 * LINEAR_INPUT @ LINEAR_INPUT.T)


def test_a_call_leaves_the_flags_of_torch_as_they_were() -> None:
    net = compiled(nn.Linear(4, 4))
    if not HAS_ISOLATION:
        net(LINEAR_INPUT)  # torch 2.11 refuses calls while another thread compiles
    before = (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: net(LINEAR_INPUT), range(200)))
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()) == before


def test_dynamic_sizes_from_the_start() -> None:
    net = compiled(nn.Linear(4, 4), policy="e4m3", dynamic=True)
    for batch in range(2, 14):
        net(torch.randn(batch, 4)).sum().backward()
    assert net.compilations == 1


class Selected(nn.Module):
    """A product of the rows that a mask selects."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(x[x[:, 0] > 0])
        return result


def test_sizes_that_depend_on_data_are_rounded_and_said_not_to_be_counted() -> None:
    x = torch.randn(6, 4)
    model = Selected()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        net = compiled(model, policy="e2m1")
        ours = net(x)
    weight, rows = (precc.round_to(value, "e2m1") for value in (model.fc.weight.detach(), x[x[:, 0] > 0]))
    assert torch.equal(ours, F.linear(rows, weight, model.fc.bias))
    ours.sum().backward()
    assert "multiply-adds not counted, for their size depends on data: fc/product" in str(net.report())


def test_data_dependent_control_flow_is_refused_or_told() -> None:
    class Sign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.fc(x) if x.sum() > 0 else self.fc(-x)
            return result

    with pytest.raises(CaptureError, match="Sign cannot be captured"):
        compiled(Sign(), fullgraph=True)(LINEAR_INPUT)
    net = compiled(Sign(), policy="e2m1")
    with pytest.warns(PrecisionWarning, match="Sign is captured in pieces"):
        net(LINEAR_INPUT)
    assert "fc/product/fprop.weight" in net.plan.slots


class Logging(nn.Module):
    """Tells something between two products, by a method of its library's own too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc(x)
        _logger.warning("between %s", "products")
        result: Tensor = self.fc(hidden)
        return result


_logger = logging.getLogger("tests.of.precc")


@pytest.mark.skipif(not HAS_ISOLATION, reason="this torch cannot leave them out")
def test_log_messages_break_no_graph() -> None:
    net = precc.compile(Logging(), policy="e4m3", backend="reference", fullgraph=True)
    net(torch.randn(2, 4)).sum().backward()
    assert net.compilations == 1
    assert len(net.plan.slots) == 10


class Cached(nn.Module):
    """Keys after those of an empty cache: a decomposition gives them other strides than eager mode does."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.project(x).unflatten(-1, (4, 4)).transpose(1, 2)
        keys = torch.cat([x.new_empty(0), heads], -2)
        result: Tensor = F.scaled_dot_product_attention(heads, keys, keys)
        return result


def test_views_of_what_inductor_lays_out_differently() -> None:
    model, x = Cached(), torch.randn(3, 6, 16)
    found = []
    for net in (model, precc.compile(model, backend="inductor")):
        net.zero_grad()
        net(x).square().sum().backward()
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    for first, second in zip(*found, strict=True):
        assert torch.allclose(first, second, rtol=1e-4, atol=1e-4)
