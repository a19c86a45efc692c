"""ONNX: the annotated graph as a file."""
