"""What fine-tuning computes on: one CPU, a GPU in mixed precision, several GPUs side by side.

Several devices share each batch (`tf.distribute.MirroredStrategy`): the gradient is the sum over
their parts, so that a step is the same step, whatever their number. Mixed precision is Keras's
policy ``mixed_float16`` with its loss scaled, as Micikevicius et al. 2018
(https://arxiv.org/abs/1710.03740) describe; the variables stay float32.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headstart.models.graph import list_sublayers
from headstart.quiet import start_tensorflow
from headstart.recipe import FineTune

if TYPE_CHECKING:
    import keras

FULL, MIXED = "float32", "mixed_float16"

# As Keras's LossScaleOptimizer has them.
_FIRST_SCALE, _STEPS_TO_DOUBLE = 2.0**15, 2000


@dataclass(frozen=True)
class Hardware:
    """Devices that a batch is shared among, and the precision of a step.

    Attributes:
        devices: As TensorFlow names them; with one or none it decides.
        precision: Of the steps of the optimizers: ``"float32"`` or ``"mixed_float16"``. What is
            measured and chosen on is computed in float32 always.
    """

    devices: tuple[str, ...] = ()
    precision: str = FULL

    def choose(self, settings: FineTune, photos: int) -> Hardware:
        """What of it so many training photos and these settings can use.

        Every device needs a photo of each batch, also of the smallest one of the smallest fold.
        BatchNormalization that is trained needs the whole batch: its statistics are the batch's.

        >>> two = Hardware(("GPU:0", "GPU:1"), MIXED)
        >>> len(two.choose(FineTune(batch_size=32), 1000).devices)
        2
        >>> two.choose(FineTune(batch_size=32), 40).devices
        ('GPU:0',)
        """
        is_small = photos < 2 * settings.batch_size
        most = 1 if is_small or settings.batchnorm == "train" else settings.batch_size // 2
        return Hardware(self.devices[: max(1, most)], self.precision)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Variables that are made within the block are on all devices."""
        if len(self.devices) < 2:
            yield
            return
        with _get_strategy(self.devices).scope():
            yield


@functools.cache
def _get_strategy(devices: tuple[str, ...]) -> Any:
    """One for all networks of a process: two would number their sums alike and mix them up."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(list(devices))


def find_hardware() -> Hardware:
    """All GPUs in mixed precision, else the CPU.

    >>> find_hardware().precision in (FULL, MIXED)
    True
    """
    start_tensorflow()
    import tensorflow as tf

    found = tuple(device.name for device in tf.config.list_logical_devices("GPU"))
    return Hardware(found, MIXED if found else FULL)


@contextlib.contextmanager
def computing_in(precision: str, model: keras.Model) -> Iterator[None]:
    """What is traced within the block computes Keras's own layers in this precision.

    The layers are left as they were found: the model that a user gets computes in float32.
    """
    layers = [
        layer
        for layer in list_sublayers(model)
        # Others may not know the policy; a model casts its photos before its layers could.
        if type(layer).__module__.partition(".")[0] == "keras"
        and not hasattr(layer, "layers")
        and layer.dtype_policy.name == FULL
    ]
    if precision == FULL:
        layers = []
    for layer in layers:
        layer.dtype_policy = precision
    try:
        yield
    finally:
        for layer in layers:
            layer.dtype_policy = FULL


class LossScale:
    """Keeps gradients within the range of float16: halved where they overflow, doubled in time.

    Its two variables belong to the state of a run.
    """

    def __init__(self) -> None:
        import tensorflow as tf

        self.scale = tf.Variable(_FIRST_SCALE, trainable=False)
        self.steps = tf.Variable(0.0, trainable=False)

    @property
    def variables(self) -> list[Any]:
        """The scale, and the steps since it last changed."""
        return [self.scale, self.steps]

    def reset(self) -> None:
        """As at the beginning."""
        self.scale.assign(_FIRST_SCALE)
        self.steps.assign(0.0)

    def update(self, is_finite: Any) -> None:
        """After a step; in a graph.

        Args:
            is_finite: Whether all gradients were.
        """
        import tensorflow as tf

        steps = tf.where(is_finite, self.steps + 1, 0.0)
        is_due = steps >= _STEPS_TO_DOUBLE
        factor = tf.where(is_finite, tf.where(is_due, 2.0, 1.0), 0.5)
        self.scale.assign(tf.maximum(self.scale * factor, 1.0))
        self.steps.assign(tf.where(is_due, 0.0, steps))
