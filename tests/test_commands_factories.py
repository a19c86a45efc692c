"""Models by ``MODEL.py:factory``: what is accepted, and what is said of what is not."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from precc.commands.factories import task_of_spec, whole
from precc.commands.steps import plan_of
from precc.errors import CaptureError, PlanError
from precc.task import Batch, Task
from tests.command_files import write_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = tmp_path_factory.mktemp("factories")
    write_files(own)
    return own


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("spec", ["net.py:factory", "./net.py:factory", "net:factory", "net.py:task", "net:task"])
def test_what_is_accepted(spec: str) -> None:
    task = task_of_spec(spec)
    assert task.loss_of(task.module(*task.inputs), task.targets).shape == ()
    again = task_of_spec(spec)
    assert torch.equal(task.inputs[0], again.inputs[0])  # from the same seed


def test_imports_leave_the_path_as_it_was(folder: Path) -> None:
    before = list(sys.path)
    task_of_spec("net.py:factory")
    assert sys.path == before
    assert task_of_spec(whole("net.py:factory")).inputs[0].shape == (8, 4)
    assert whole("net.py:factory") == f"{folder / 'net.py'}:factory"
    assert whole("package.module:factory") == "package.module:factory"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("net.py", "'net.py' is neither MODEL.py:factory nor package.module:factory"),
        ("vgg", "'vgg' is neither MODEL.py:factory nor package.module:factory; gpt, lenet5"),
        ("absent.py:factory", "'absent.py:factory' is not there: there is no file 'absent.py'"),
        ("absent_module:factory", "is not there: No module named 'absent_module'"),
        ("net.py:absent", "'net.py:absent' is not there: net.py has no attribute 'absent'"),
        ("net.py:1x", "'net.py:1x' is neither"),
        (".:x", "is neither"),
        ("net.py:LOSS", "the factory 'net.py:LOSS' fails: TypeError"),
        ("net.py:__doc__", "is a str, not a factory"),
        ("net.py:module_alone", "it makes a Net alone: return the example's inputs too, (module, example_args)"),
        ("net.py:nonsense", "it makes a list of str, int, not (module, example_args)"),
        ("net.py:example_is_nonsense", "the example's arguments are a list of int, int, not the tuple"),
        ("net.py:strange_error", "the factory 'net.py:strange_error' fails: Strange: of no Exception, at "),
        ("net.py:leaves", "the factory 'net.py:leaves' fails: SystemExit: as scripts do, at "),
    ],
)
def test_what_is_not(spec: str, message: str) -> None:
    with pytest.raises((PlanError, CaptureError)) as caught:
        task_of_spec(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_that_cannot_be_read(tmp_path: Path) -> None:
    for name, text, message in (
        ("broken", "def\n", "cannot be imported: SyntaxError"),
        ("ends", "raise SystemExit(3)\n", "cannot be imported: SystemExit: 3, at "),
        ("lacks", "import absent_of_precc\n", "No module named 'absent_of_precc'"),
    ):
        (tmp_path / f"{name}_for_precc.py").write_text(text)
        with pytest.raises(PlanError, match=message):
            task_of_spec(f"{tmp_path}/{name}_for_precc.py:make")
    assert not [name for name in sys.modules if "_for_precc" in name]


def test_plans_by_name() -> None:
    assert str(plan_of("e4m3/tensor").default) == "float8_e4m3fn/tensor"
    assert plan_of("plan.json").slots
    for name in ("e4m33x", "e4m3/sideways", "other.json", "absent.json"):
        with pytest.raises(PlanError, match="is neither a format"):
            plan_of(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"module": 3}, "the module of a task is a torch.nn.Module, not 3, of type int"),
        ({"loss": 3}, "the loss of a task is a function, or None, not 3"),
        ({"loss": nn.CrossEntropyLoss}, "the loss of a task is a function"),
        ({"batches": [1]}, "the batches of a task is a function"),
        ({"named_inputs": 3}, "the named_inputs of a task are a dict"),
    ],
)
def test_tasks_that_make_no_sense(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        Task(**{"module": nn.Linear(2, 2), **arguments})  # type: ignore[arg-type]


def test_the_loss_of_a_task() -> None:
    task = Task(nn.Linear(2, 1), torch.ones(1, 2))
    output = task.module(*task.inputs)
    assert task.loss_of(output) is output  # one number
    assert task.loss_of({"loss": output.sum(), "logits": output}).shape == ()
    for wrong in (torch.ones(2), {"logits": output}, 3.0):
        with pytest.raises(CaptureError, match="has no loss, which is one number"):
            task.loss_of(wrong)
    with pytest.raises(CaptureError, match="one real number, not a torch.float32 tensor of shape"):
        Task(nn.Linear(2, 1), loss=lambda output: output).loss_of(torch.ones(2))
    with pytest.raises(CaptureError, match="one real number, not 3.0, of type float"):
        Task(nn.Linear(2, 1), loss=lambda output: 3.0).loss_of(output)


def test_batches() -> None:
    x, y = torch.ones(2), torch.zeros(2)
    assert Batch.of([x, y]) == Batch((x,), (y,))
    assert Batch.of(((x, x), y)).inputs == (x, x)
    assert Batch.of({"x": x}).named_inputs == {"x": x}
    with pytest.raises(CaptureError, match="a batch is a pair"):
        Batch.of((x, y, y))


def test_tasks_of_the_models_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a loss that its model learns from, and batches of the shape of its example."""
    monkeypatch.delenv("PRECC_DATA", raising=False)
    for name in ("mlp", "lstm"):
        task = task_of_spec(name)
        assert task.module is not task_of_spec(name).module
        first = Batch.of(next(iter(task.epoch(0))))
        assert first.inputs[0].shape == task.inputs[0].shape
        assert first.targets[0].shape == task.targets[0].shape
        assert not torch.equal(first.inputs[0], Batch.of(next(iter(task.epoch(0)))).inputs[0])
