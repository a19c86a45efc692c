"""Text of Triton functions: roundings, scales, codes, and pointwise operations."""
