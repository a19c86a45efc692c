"""Training loops as people write them, with a compiled net in the place of the model."""

import copy
import gc
import io
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.checkpoint import checkpoint

import precc
from precc import PrecisionPlan, Uniform
from precc.errors import CaptureError, PlanError, UnsupportedError
from precc.models.gpt import GPT
from precc.module import PrecisionModule
from tests.nets import Attention, Convolutional, LeNet5, Stack, equal, inputs_of, loss_and_gradients, loss_of, uniform
from tests.small_nets import RecurrentClassifier
from tests.zoo import gpt2, llama

STOCHASTIC = Uniform("e4m3", rounding="stochastic")
LABELS = torch.arange(4)


def compiled(model: nn.Module, policy: Any = None) -> PrecisionModule:
    return precc.compile(model, policy=policy, backend="reference")


def gradients(net: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]


def values(net: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in net.state_dict().values()]


# --- accumulation, clipping, plans that change between steps


def test_accumulated_gradients_are_the_sum_of_those_of_the_micro_batches() -> None:
    net, x = compiled(LeNet5(), STOCHASTIC), inputs_of(LeNet5(), 8)
    torch.manual_seed(3)
    apart = [loss_and_gradients(net, part, seed)[1:] for seed, part in enumerate(x.split(4))]
    net.zero_grad()
    for seed, part in enumerate(x.split(4)):
        torch.manual_seed(seed)
        loss_of(net, part).backward()
    assert equal(gradients(net), [a + b for a, b in zip(*apart, strict=True)])
    assert net.compilations == 1


def test_clipping_and_a_plan_that_changes_with_each_step() -> None:
    model, x = LeNet5(), inputs_of(LeNet5())
    net, names = compiled(model), ["e4m3", "fp32", "e5m2", "bf16"]
    other = copy.deepcopy(model)
    for name in names:  # each step equals that of a net which never had another plan
        fresh = compiled(other, name)
        for each in (net, fresh):
            each.zero_grad()
            if each is net:
                net.set_plan(uniform(name))
            loss_of(each, x).backward()
            norm = nn.utils.clip_grad_norm_(each.parameters(), 0.01)
            assert norm > 0.01
            torch.optim.SGD(each.parameters(), lr=0.5).step()
        assert equal(values(net), values(fresh)), name
    assert net.compilations == 1


# --- torch.utils.checkpoint


class Checkpointed(nn.Module):
    """Blocks with dropout, each in a checkpoint or not."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Attention(), Attention()])
        self.drop = nn.Dropout(0.3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if self.reentrant is None:
                x = self.drop(block(x))
            else:
                x = checkpoint(lambda y, own: self.drop(own(y)), x, block, use_reentrant=self.reentrant)
        return x


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_inside_the_model_changes_no_bit(reentrant: bool) -> None:
    found = []
    for how in (None, reentrant):
        torch.manual_seed(0)
        net = compiled(Checkpointed(how), STOCHASTIC)
        torch.manual_seed(1)
        net(inputs_of(Attention())).square().mean().backward()
        found.append(gradients(net))
    assert equal(*found)


def checkpointed_step(
    net: PrecisionModule, how: Callable[[Any, Tensor], Tensor], between: Callable[[], None] | None = None
) -> list[Tensor]:
    """Gradients of two micro-batches whose forwards run under two plans, both before their backwards."""
    net.zero_grad()
    x = inputs_of(Stack()).requires_grad_()
    losses = []
    for seed, plan in enumerate((STOCHASTIC.assign(), Uniform("e5m2", rounding="stochastic").assign())):
        torch.manual_seed(seed)
        net.set_plan(plan)
        losses.append(how(net, x).square().mean())
    if between is not None:
        between()
    for loss in losses:
        loss.backward()
    return [*gradients(net), *([x.grad] if x.grad is not None else [])]


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_around_the_net_has_the_plan_and_the_bits_of_its_forward(reentrant: bool) -> None:
    net = compiled(Stack())
    plain = checkpointed_step(net, lambda net, x: net(x))
    e2m1 = uniform("e2m1")

    def around(net: Any, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(net, x, use_reentrant=reentrant)
        return result

    assert equal(checkpointed_step(net, around, lambda: net.set_plan(e2m1)), plain)
    low = loss_and_gradients(net, inputs_of(Stack()))
    assert equal(low, loss_and_gradients(compiled(precc.module.original(net), "e2m1"), inputs_of(Stack())))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_in_checkpoints_have_the_plan_of_their_forward(reentrant: bool) -> None:
    net = compiled(Stack())
    plain = checkpointed_step(net, lambda net, x: net(x))

    def nested(net: Any, x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            own: Tensor = checkpoint(net, y, use_reentrant=reentrant)
            return own

        result: Tensor = checkpoint(inner, x, use_reentrant=reentrant)
        return result

    assert equal(checkpointed_step(net, nested, lambda: net.set_plan(uniform("e2m1"))), plain)


def test_a_checkpointed_region_with_two_plans_is_refused() -> None:
    net, x = compiled(Stack(), "e4m3"), inputs_of(Stack()).requires_grad_()

    def region(x: Tensor) -> Tensor:
        net.set_plan(uniform("e4m3"))
        first = net(x)
        net.set_plan(uniform("e5m2"))
        result: Tensor = first + net(x)
        return result

    loss = checkpoint(region, x, use_reentrant=False).sum()
    with pytest.raises(UnsupportedError, match="whose plan changed inside of it: set the plan before the checkpoint"):
        loss.backward()


# --- autocast and loss scaling


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_autocast_under_a_plan_that_changes_no_bfloat16_is_autocast(name: str) -> None:
    model, x = LeNet5(), inputs_of(LeNet5())
    found = []
    for net in (model, compiled(model, name)):
        net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(x)
        F.cross_entropy(logits, LABELS).backward()
        assert logits.dtype == torch.bfloat16
        found.append([logits.detach(), *gradients(net)])
    assert equal(*found)


def test_a_scaler_skips_the_step_whose_gradients_overflow() -> None:
    net, x = compiled(LeNet5(), STOCHASTIC), inputs_of(LeNet5())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    moved = []
    for factor in (1.0, float("inf"), 1.0):
        before = values(net)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = factor * F.cross_entropy(net(x), LABELS)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        moved.append(not equal(values(net), before))
    assert moved == [True, False, True]
    assert scaler.get_scale() == 512.0
    assert net.compilations == 1


# --- optimizers

OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "fused AdamW": lambda parameters: torch.optim.AdamW(parameters, fused=True),
    "fused SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True),
    "foreach AdamW": lambda parameters: torch.optim.AdamW(parameters, foreach=True),
    "foreach SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, foreach=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_and_their_schedules_move_the_net_as_the_model(name: str) -> None:
    model, x = LeNet5(), inputs_of(LeNet5())
    found = []
    for net in (copy.deepcopy(model), compiled(copy.deepcopy(model))):
        optimizer = OPTIMIZERS[name](net.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=4)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(net, x).backward()
            optimizer.step()
            schedule.step()
        found.append(values(net))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*found, strict=True))
    assert not equal(found[0], values(model))


# --- copies


def test_averages_and_copies_round_under_plans_of_their_own() -> None:
    net, x = compiled(Convolutional(), "e4m3"), inputs_of(Convolutional())
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(net, x).backward()
        optimizer.step()
        average.update_parameters(net)
    graphs, own = net.compilations, net.eval()(x)
    assert not equal(values(average.module), values(net))
    twin, mean = copy.deepcopy(net), average.module
    assert torch.equal(twin(x), own)
    average.eval()
    expected = compiled(copy.deepcopy(precc.module.original(mean)), "e4m3").eval()
    assert torch.equal(average(x), expected(x))
    for duplicate in (twin, mean):
        duplicate.set_plan(uniform("e2m1"))
    expected.set_plan(uniform("e2m1"))
    assert torch.equal(average(x), expected(x))
    assert not torch.equal(twin(x), own)
    assert torch.equal(net(x), own)
    assert net.compilations == graphs + 1  # its own evaluation


def test_nets_go_through_files(tmp_path: Path) -> None:
    def fresh() -> PrecisionModule:
        return compiled(GPT(context=8, width=32, layers=1), "e4m3")

    net, tokens = fresh(), torch.randint(128, (2, 8))
    net(tokens).sum().backward()
    safetensors.torch.save_model(net, str(tmp_path / "net.safetensors"))
    torch.save(net.state_dict(), tmp_path / "state.pt")
    tensors, state, whole = fresh(), fresh(), io.BytesIO()
    safetensors.torch.load_model(tensors, str(tmp_path / "net.safetensors"))
    state.load_state_dict(torch.load(tmp_path / "state.pt"))
    torch.save(net, whole)
    whole.seek(0)
    loaded = [tensors, state, pickle.loads(pickle.dumps(net)), torch.load(whole, weights_only=False)]
    expected = net(tokens)
    for other in loaded:
        assert other.head.weight is other.token_embedding.weight
        assert torch.equal(other(tokens), expected)
        assert other.plan == net.plan


RUN = """
import sys, torch, precc
from tests.test_training_loops import resumable, resumable_step
net, optimizer = resumable()
saved, written = sys.argv[1:]
weights, moments, precision, generator = torch.load(saved)
net.load_state_dict(weights), optimizer.load_state_dict(moments)
net.load_precision_state(precision), torch.set_rng_state(generator)
torch.save([resumable_step(net, optimizer) for _ in range(2)] + [net.precision_state()], written)
"""


def resumable() -> tuple[PrecisionModule, torch.optim.Optimizer]:
    """A net with dropout, batch norm, stochastic rounding and delayed scales, and its optimizer."""
    scaling = precc.Scaling("tensor", scale_format="fp32", history=4)
    net = compiled(Convolutional(), Uniform("e4m3", rounding="stochastic", scaling=scaling))
    return net, torch.optim.AdamW(net.parameters(), lr=0.01)


def resumable_step(net: PrecisionModule, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All that one step leaves."""
    optimizer.zero_grad()
    loss = loss_of(net, inputs_of(Convolutional()))
    loss.backward()
    optimizer.step()
    return [loss.detach(), *gradients(net), *values(net)]


def test_a_new_process_goes_on_bit_for_bit(tmp_path: Path) -> None:
    net, optimizer = resumable()
    for _ in range(3):
        resumable_step(net, optimizer)
    saved, written = tmp_path / "run.pt", tmp_path / "steps.pt"
    torch.save([net.state_dict(), optimizer.state_dict(), net.precision_state(), torch.get_rng_state()], saved)
    expected = [resumable_step(net, optimizer) for _ in range(2)]
    command = [sys.executable, "-c", RUN, str(saved), str(written)]
    subprocess.run(command, cwd=Path(__file__).parent.parent, check=True)
    *steps, state = torch.load(written)
    assert all(equal(ours, theirs) for ours, theirs in zip(steps, expected, strict=True))
    assert state == net.precision_state()


# --- what changes between steps


def test_parameters_frozen_and_unfrozen_between_steps() -> None:
    model, x = LeNet5(), inputs_of(LeNet5())
    net = compiled(model, "e4m3")
    whole = dict(zip(dict(model.named_parameters()), loss_and_gradients(net, x)[1:], strict=True))
    slots = set(net.plan.slots)
    for frozen in (["conv1"], ["conv1", "conv2"], [], ["fc2"]):
        for name, layer in model.named_children():
            layer.requires_grad_(name not in frozen)
        net.zero_grad()
        loss_and_gradients(net, x)
        found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        assert {name.split(".")[0] for name in whole.keys() - found.keys()} == set(frozen)
        assert all(torch.equal(own, whole[name]) for name, own in found.items())
    assert set(net.plan.slots) == slots


def test_a_module_used_twice_has_slots_for_each_use() -> None:
    net, x = compiled(Stack(), "e4m3"), inputs_of(Stack())
    loss_and_gradients(net, x)
    uses = {slot for slot in net.plan.slots if slot.startswith("shared/") and slot.endswith("/fprop.weight")}
    assert uses == {"shared/product/fprop.weight", "shared/product#1/fprop.weight"}
    before = net(x)
    net.set_plan(PrecisionPlan("e4m3", {"shared/product#1/fprop.weight": "e2m1"}))
    assert not torch.equal(net(x), before)


def lm_batch(size: int) -> dict[str, Tensor]:
    ids = torch.randint(3, 96, (size, 3 + size))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def test_a_language_model_takes_twelve_batch_sizes_and_lengths() -> None:
    net = compiled(llama(layers=1), "e4m3")
    for size in range(1, 13):
        net(**lm_batch(size)).loss.backward()
    assert net.compilations <= 3


def test_a_convolutional_net_takes_twelve_batch_and_image_sizes() -> None:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), *head)
    net = compiled(model, "e4m3")
    for size in range(2, 14):
        net(torch.randn(size, 3, 8 + 2 * size, 8 + 2 * size)).sum().backward()
    assert net.compilations <= 3


def test_a_recurrent_net_takes_more_lengths_than_dynamo_has_graphs_for() -> None:
    net = compiled(RecurrentClassifier(nn.LSTM), "e4m3")
    with torch._dynamo.config.patch(recompile_limit=2):
        for length in range(1, 5):
            net(torch.randint(64, (length + 1, length))).sum().backward()
        graphs = net.compilations
        assert 2 < graphs <= 6  # one for each length, whatever the batch
        for batch in (3, 20, 50):
            net(torch.randint(64, (batch, 4))).sum().backward()
        assert net.compilations == graphs
        assert torch._dynamo.config.recompile_limit == 2


# --- generation


def greedy(net: Any, ids: Tensor, count: int) -> Tensor:
    """Tokens of the highest logits, one by one, each from a pass over the whole sequence."""
    with torch.no_grad():
        for _ in range(count):
            logits = net(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    return ids


@pytest.mark.parametrize(
    "factory",
    [lambda: llama(layers=1), pytest.param(lambda: gpt2(0.0, layers=1), marks=pytest.mark.slow)],
    ids=["llama", "gpt2"],
)
def test_generation_runs_the_rounded_net(factory: Callable[[], Any]) -> None:
    model, ids = factory(), torch.randint(3, 96, (2, 6))
    net = compiled(model)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(net(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
    net.eval()
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 8, "eos_token_id": None}
    plain = model.generate(input_ids=ids, **options)
    assert torch.equal(net.generate(input_ids=ids, **options), plain)
    graphs = net.compilations
    net.set_plan(uniform("e2m1"))
    rounded = net.generate(input_ids=ids, **options)
    assert not torch.equal(rounded, plain)
    assert net.compilations == graphs <= 5
    assert torch.equal(rounded, greedy(net, ids, 8))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_double_net_whose_first_call_is_in_a_checkpoint(reentrant: bool) -> None:
    """Its full precision is known to be float64 only after the call."""
    model = nn.Linear(4, 4).double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    found = []
    for own in (model, precc.compile(model, backend="reference")):
        own.zero_grad()
        checkpoint(own, x, use_reentrant=reentrant).square().sum().backward()
        found.append([p.grad.clone() for p in own.parameters() if p.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_another_plan_before_the_backward_of_a_checkpoint_around_a_net_for_one_plan(reentrant: bool) -> None:
    net = precc.compile(nn.Linear(4, 4), policy="e4m3", backend="reference", live=False)
    loss = checkpoint(net, torch.randn(3, 4, requires_grad=True), use_reentrant=reentrant).sum()
    net.set_plan(uniform("e5m2"), recompile=True)
    with pytest.raises(UnsupportedError, match="one plan alone: set another after the backward"):
        loss.backward()


def test_a_plan_that_fits_no_graph_of_a_recomputation_is_refused() -> None:
    net = precc.compile(nn.Linear(16, 16), policy="e4m3", backend="reference")
    loss = checkpoint(net, torch.randn(3, 16, requires_grad=True), use_reentrant=True).sum()
    net.set_plan(
        precc.PrecisionPlan(
            "e4m3", rules=(precc.Rule(role="wgrad", operand="input", format="e4m3", transform="hadamard"),)
        )
    )
    with pytest.raises(PlanError, match="their product is wrong"):
        loss.backward()


def test_a_shallow_copy_leaves_the_net_usable() -> None:
    net, x = precc.compile(nn.Linear(4, 4), backend="reference"), torch.randn(3, 4)
    expected = net(x)
    assert torch.equal(copy.copy(net)(x), expected)
    gc.collect()
    assert torch.equal(net(x), expected)


class Doubling(torch.autograd.Function):
    """A function of the user's before the net."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return 2 * gradients[0]


class Passing(nn.Module):
    """One output is a view of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.view(-1), self.fc(x)


def test_a_gradient_of_a_gradient_beside_the_net() -> None:
    """An output that is a view leads to what is before the net, which may be differentiated twice."""
    x = torch.randn(3, 4, requires_grad=True)
    view, product = precc.compile(Passing(), backend="reference")(Doubling.apply(x))
    (gradient,) = torch.autograd.grad(view.pow(3).sum(), x, create_graph=True)
    gradient.sum().backward()
    (of_product,) = torch.autograd.grad(product.square().sum(), x, create_graph=True)
    with pytest.raises(UnsupportedError, match="differentiated once more"):
        of_product.sum().backward()


@pytest.mark.parametrize("regions", [None, "rnn"])
def test_a_net_with_a_recurrent_layer_is_pickled(regions: str | None) -> None:
    model = nn.ModuleDict({"rnn": nn.LSTM(4, 4)})

    holder = model["rnn"] if regions is None else model
    net = precc.compile(holder, backend="reference", regions=regions)
    kept = pickle.loads(pickle.dumps(net))
    assert [name for name, _ in kept.named_parameters()] == [name for name, _ in net.named_parameters()]
    if regions is None:
        x = torch.randn(2, 3, 4)
        assert torch.equal(kept(x)[0], net(x)[0])


def test_distributed_data_parallel_has_the_slots_and_the_step_of_the_net() -> None:
    """DDPOptimizer would cut graphs of more than 1 MB."""
    model = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(300, 300), nn.Linear(300, 300), nn.ReLU())))
    net, x = compiled(model, "e4m3"), torch.randn(4, 300)
    other = compiled(copy.deepcopy(model), "e4m3")
    net(x).square().sum().backward()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(other)
        parallel(x).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert equal(gradients(other), gradients(net))
    assert set(other.plan.slots) == set(net.plan.slots)
    assert other.compilations == 1
    assert "in no graph" not in str(other.report())


def test_the_trainer_of_transformers_trains_a_net_as_it_does_a_model(tmp_path: Path) -> None:
    tokens = torch.randint(0, 50, (12, 8), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    after = []
    for wraps in (compiled, lambda model: model):
        torch.manual_seed(0)
        net = wraps(llama())
        options: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=3, per_device_train_batch_size=4, dataloader_pin_memory=False, **options
        )
        transformers.Trainer(net, arguments, train_dataset=data).train()
        after.append(values(net))
    for ours, theirs in zip(*after, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("regions", [None, "*"])
def test_a_parametrized_net_is_copied(regions: str | None) -> None:
    layers = [nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(2)]
    net = precc.compile(nn.Sequential(*layers), policy="e4m3", regions=regions, backend="reference")
    x = torch.randn(3, 4)
    expected = net(x)
    other = copy.deepcopy(net)
    assert torch.equal(other(x), expected)
    nn.init.zeros_(layers[0].parametrizations.weight.original0)  # type: ignore[union-attr, index, arg-type]
    assert torch.equal(other(x), expected)
    assert not torch.equal(net(x), expected)


def test_statistics_that_cannot_be_captured_are_an_error_with_the_way_out() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    average = AveragedModel(compiled(model, "e4m3"))
    with pytest.raises(CaptureError, match="update_bn of torch.optim.swa_utils, can run with the model"):
        update_bn([torch.randn(5, 4)], average)
