"""Fused Triton kernels: generated source, its compilation for a target, and how a graph runs by them."""
