"""Kernels in C++, compiled by the system's compiler at their first use."""

from precc.backends.cpp.kernels import compiled_or_tensor_ops, round_compiled, warn_without_kernels

__all__ = ["compiled_or_tensor_ops", "round_compiled", "warn_without_kernels"]
