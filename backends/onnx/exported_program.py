"""What torch.export makes of a net, in eval mode: with products opened as in training, or an error of ours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, OutputKind
from torch.utils import _pytree

from precc.backends.onnx.opened_composites import with_opened_composites
from precc.errors import CaptureError, PreccError
from precc.module import PrecisionModule, original, session_of

__all__ = ["eval_mode", "exported_program"]


def exported_program(
    net: PrecisionModule, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    """The net's forward, traced with copies of these inputs.

    Raises:
        CaptureError: it cannot be traced, has no values, or returns something else than tensors.
    """
    model = original(net)
    _check_values(net)
    with eval_mode(model):
        try:
            program = torch.export.export(model, *_copies((args, dict(kwargs))), dynamic_shapes=dynamic_shapes)
            _check_outputs(program)
            return with_opened_composites(program, fused_attention=session_of(net).options.fused_attention)
        except PreccError:
            raise
        except Exception as error:
            hint = ": set model.config.use_cache = False" if "Cache" in str(error) else ""
            raise CaptureError(f"torch.export cannot trace {type(model).__name__}: {error}{hint}") from error


def _check_values(net: nn.Module) -> None:
    for name, value in (*net.named_parameters(), *net.named_buffers()):
        if value.is_meta:
            raise CaptureError(
                f"{name!r} is on the device 'meta', without values to export: net.to_empty(device='cpu') and load them"
            )


def _check_outputs(program: ExportedProgram) -> None:
    specs = [own for own in program.graph_signature.output_specs if own.kind is OutputKind.USER_OUTPUT]
    for number, spec in enumerate(specs):
        if isinstance(spec.arg, ConstantArgument):
            raise CaptureError(
                f"output {number} of the net is {spec.arg.value!r}, which no ONNX file returns: export a module whose "
                "forward returns tensors alone"
            )


def _copies(inputs: Any) -> Any:
    """Inputs with copies of their tensors: torch.export marks those that it gets, and a net may change them."""
    return _pytree.tree_map_only(Tensor, lambda own: own.detach().clone(), inputs)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode; the modes of all modules are then what they were."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
