"""The whole network after fine-tuning as one ONNX graph."""

from __future__ import annotations

from headstart.models.boundary import Prefix, build_prefix_model, change_weights
from headstart.runtimes import onnx_runtime
from headstart.task import CLASSIFICATION, Task
from headstart.training.tuning import Tuning


def tuned_prefix(prefix: Prefix, tuning: Tuning) -> Prefix:
    """The prefix to the pooled features, with the weights of after."""
    return change_weights(prefix, tuning.backbone, tuning.arrays) if tuning.share else prefix


def build_graph(prefix: Prefix, tuning: Tuning, task: Task = CLASSIFICATION) -> bytes:
    """Photos → probabilities or numbers, with the weights of after."""
    tuned = tuned_prefix(prefix, tuning)
    features = onnx_runtime.get_graph(tuned, lambda: build_prefix_model(tuned))
    return onnx_runtime.append_head(features, tuning.kernel, tuning.bias, task)
