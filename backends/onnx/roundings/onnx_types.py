"""The ONNX types that hold rounded values."""

import torch

__all__ = ["TORCH_TYPES", "first_opset", "width"]

#: ONNX types: bits of a value, and the first opset in which Cast takes them.
_TYPES = {
    "FLOAT": (32, 1),
    "FLOAT16": (16, 1),
    "BFLOAT16": (16, 13),
    "FLOAT8E4M3FN": (8, 19),
    "FLOAT8E4M3FNUZ": (8, 19),
    "FLOAT8E5M2": (8, 19),
    "FLOAT8E5M2FNUZ": (8, 19),
    "FLOAT4E2M1": (4, 23),
    "FLOAT8E8M0": (8, 24),
    "FLOAT6E2M3": (6, 28),
    "FLOAT6E3M2": (6, 28),
    "INT2": (2, 25),
    "UINT2": (2, 25),
    "INT4": (4, 21),
    "UINT4": (4, 21),
    "INT8": (8, 1),
    "UINT8": (8, 1),
    "INT16": (16, 1),
    "UINT16": (16, 1),
}

#: Those that PyTorch computes in.
TORCH_TYPES = {"FLOAT": torch.float32, "FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16}


def width(type: str) -> int:
    """The bits of a value of an ONNX type."""
    return _TYPES[type][0]


def first_opset(type: str) -> int:
    """The first opset in which Cast takes an ONNX type."""
    return _TYPES[type][1]
