"""All trackers, by the extra that installs them: a new one is one entry here, and its tests come from it."""

from precc.tracking.mlflow import MLflow
from precc.tracking.sink import Sink
from precc.tracking.tensorboard import TensorBoard
from precc.tracking.wandb import Wandb

__all__ = ["SINKS"]

SINKS: dict[str, type[Sink]] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": MLflow}
