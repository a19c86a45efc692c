"""Tensors as NumPy has them."""

from typing import Any

import torch
from torch import Tensor

from precc.errors import UnsupportedError

__all__ = ["array_of"]


def array_of(tensor: Tensor) -> Any:
    """A tensor as NumPy has it.

    Raises:
        UnsupportedError: of bfloat16.
    """
    if tensor.dtype is torch.bfloat16:
        raise UnsupportedError("verify_onnx cannot run models of bfloat16 tensors: no runtime takes them from NumPy")
    return tensor.detach().cpu().numpy()
