"""What a rounding becomes: nodes of QONNX with bodies, or ONNX's own casts and quantisers."""
