"""Heads: what turns pooled features into probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart.models.boundary import pool
from headstart.models.unfreeze import resolve_unfreeze, set_trainable
from headstart.task import get_task

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt


def attach_head(
    backbone: keras.Model,
    num_classes: int,
    *,
    unfreeze: str | int = "none",
    batchnorm: str = "inference",
    kernel: npt.NDArray[np.float32] | None = None,
    bias: npt.NDArray[np.float32] | None = None,
    task: str = "classification",
) -> keras.Model:
    """A classifier on a backbone: pooling, then Dense with softmax.

    What is not unfrozen gets ``trainable = False``: neither its weights nor the statistics of its
    BatchNormalization change, which normalises as in inference also while the model is fitted.
    Dropout inside a backbone stays active in ``fit``, as Keras has it; the built-in ones have none.
    Compile and fit the result as any Keras model; compile again after changing ``trainable``.

    Args:
        backbone: A model from photos to a feature map or vector, such as `load_backbone` gives.
        num_classes: Number of classes, 2 or more.
        unfreeze: What of the backbone is trained, such as ``"last_block"``, 4 or ``"all"``; see
            `headstart.models.unfreeze.resolve_unfreeze`.
        batchnorm: ``"inference"``, or ``"train"`` to let BatchNormalization learn in what is
            unfrozen.
        kernel: ``(feature, class)`` start of the Dense layer; random by default.
        bias: ``(class,)`` start of the Dense layer; zero by default.
        task: ``"classification"``; ``"multilabel"``, with a sigmoid for each label; or
            ``"regression"``, with a linear output.

    Returns:
        A model from ``(batch, size, size, 3)`` photos to ``(batch, num_classes)`` probabilities,
        or numbers.

    Raises:
        ValueError: Fewer than two classes, or than one label or number.
        HeadstartError: No such task.
        BoundaryError: Nothing of that name to unfreeze.

    >>> from headstart import load_backbone
    >>> model = attach_head(load_backbone(weights=None, image_size=64), num_classes=5)
    >>> model.output_shape, len(model.trainable_variables)
    ((None, 5), 2)
    >>> backbone = load_backbone(weights=None, image_size=64)
    >>> len(attach_head(backbone, 5, unfreeze="last_block").trainable_variables)
    6
    """
    import keras

    kind = get_task(task)
    if num_classes < kind.fewest_names:
        raise ValueError(
            f"num_classes is {num_classes}; {task} needs at least {kind.fewest_names}."
        )
    backbone.trainable = False
    if unfreeze not in ("none", 0):
        set_trainable(backbone, resolve_unfreeze(backbone, unfreeze, batchnorm))
    photos = keras.Input(backbone.input_shape[1:], name="photos")
    features = pool(backbone(photos, training=False))
    head = keras.layers.Dense(num_classes, activation=kind.activation, name="head")
    model = keras.Model(photos, head(features), name=f"{backbone.name}_classifier")
    if kernel is not None:
        head.kernel.assign(kernel)
    if bias is not None:
        head.bias.assign(bias)
    return model
