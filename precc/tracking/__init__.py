"""Logging a training where people already look: TensorBoard, Weights & Biases, MLflow, callbacks of their own."""
