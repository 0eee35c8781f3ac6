"""Small SavedModels of every kind, as their authors' tools write them. Not to be changed."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZE, WIDTH = 32, 8


def new_folder() -> Path:
    """A folder that goes when the tests end."""
    return Path(tempfile.mkdtemp(dir=_root()))


@functools.cache
def _root() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="headstart-saved-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _variables(root: Any) -> None:
    import tensorflow as tf

    kernel = tf.random.stateless_normal([3, 3, 3, WIDTH], (1, 2)) * 0.2
    root.kernel = tf.Variable(kernel, name="conv/kernel")
    root.gamma = tf.Variable(tf.ones([WIDTH]), name="bn/gamma")
    root.beta = tf.Variable(tf.zeros([WIDTH]), name="bn/beta")
    root.mean = tf.Variable(tf.zeros([WIDTH]), trainable=False, name="bn/moving_mean")
    root.variance = tf.Variable(tf.ones([WIDTH]), trainable=False, name="bn/moving_variance")


def _convolve(root: Any, photos: Any, training: bool) -> Any:
    """Convolution, BatchNormalization, dropout; a map ``(batch, 16, 16, 8)``."""
    import tensorflow as tf

    x = tf.nn.conv2d(tf.cast(photos, tf.float32), root.kernel, 2, "SAME")
    mean, variance = root.mean, root.variance
    if training:
        mean, variance = tf.nn.moments(x, [0, 1, 2])
        root.mean.assign(0.9 * root.mean + 0.1 * mean)
        root.variance.assign(0.9 * root.variance + 0.1 * variance)
        x = tf.nn.dropout(x, 0.3)
    x = tf.nn.batch_normalization(x, mean, variance, root.beta, root.gamma, 1e-3)
    return tf.nn.relu(x)


def _save(root: Any, function: Any, name: str, spec: Any, flags: tuple[Any, ...]) -> Path:
    import tensorflow as tf

    for flag in flags:
        keywords = {} if flag is None else {"training": flag}
        function.get_concrete_function(spec, **keywords)
    path = new_folder() / name
    tf.saved_model.save(root, str(path))
    return path


def _spec(dtype: str = "float32", size: int | None = SIZE, batch: int | None = None) -> Any:
    import tensorflow as tf

    return tf.TensorSpec([batch, size, size, 3], dtype)


@functools.cache
def reusable(size: int | None = SIZE, has_list: bool = True) -> Path:
    """Hub's interface: ``__call__`` with a flag, variables, a choice of them, a loss.

    https://www.tensorflow.org/hub/reusable_saved_models
    """
    import tensorflow as tf

    root = tf.train.Checkpoint()  # unlike tf.Module, it stores lists of variables
    _variables(root)
    if has_list:
        root.trainable_variables = [root.kernel, root.gamma]  # beta is not among them
        root.variables = [root.kernel, root.gamma, root.beta, root.mean, root.variance]
    loss = tf.function(lambda: 0.5 * tf.nn.l2_loss(root.kernel), input_signature=[])
    root.regularization_losses = [loss]

    @tf.function
    def call(photos: Any, training: bool = False) -> Any:
        return tf.reduce_mean(_convolve(root, photos, training), [1, 2])

    root.__call__ = call
    return _save(root, call, "reusable", _spec(size=size), (False, True))


@functools.cache
def module(dtype: str = "float32", batch: int | None = None) -> Path:
    """A ``tf.Module`` without a training argument, which gives a map."""
    import tensorflow as tf

    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            _variables(self)

        @tf.function
        def __call__(self, photos: Any) -> Any:
            return _convolve(self, tf.cast(photos, tf.float32) * (1 / 255), False)

    net = Net()
    return _save(net, net.__call__, "module", _spec(dtype, batch=batch), (None,))


@functools.cache
def keyword_only() -> Path:
    """``is_training`` can only be given by its name; the output is a dictionary."""
    import tensorflow as tf

    root = tf.train.Checkpoint()
    _variables(root)

    @tf.function
    def call(photos: Any, *, is_training: bool) -> Any:
        x = _convolve(root, photos, is_training)
        return {"default": tf.reduce_mean(x, [1, 2]), "map": x, "small": x[:, ::2, ::2]}

    root.__call__ = call
    for flag in (True, False):
        call.get_concrete_function(_spec(), is_training=flag)
    return _save(root, call, "keyword", _spec(), ())


@functools.cache
def several_outputs() -> Path:
    """Two outputs, neither of which is Hub's default."""
    import tensorflow as tf

    root = tf.train.Checkpoint()
    _variables(root)

    @tf.function
    def call(photos: Any) -> Any:
        x = _convolve(root, photos, False)
        return tf.reduce_mean(x, [1, 2]), x

    root.__call__ = call
    return _save(root, call, "several", _spec(), (None,))


@functools.cache
def with_output(make: Callable[[Any], Any], name: str) -> Path:
    """Any function of the map, as the output."""
    import tensorflow as tf

    root = tf.train.Checkpoint()
    _variables(root)
    root.__call__ = tf.function(lambda photos: make(_convolve(root, photos, False)))
    return _save(root, root.__call__, name, _spec(), (None,))


def keras_network() -> Any:
    """A small network with BatchNormalization and dropout, its statistics not the initial ones."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(WIDTH, 3, strides=2),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.3),
            layers.GlobalAveragePooling2D(),
        ]
    )
    network.layers[1].moving_mean.assign([0.1] * WIDTH)
    return network


@functools.cache
def exported() -> Path:
    """By ``keras.Model.export``."""
    path = new_folder() / "exported"
    keras_network().export(str(path), verbose=False)
    return path


@functools.cache
def signature() -> Path:
    """Only ``serving_default``: what ``tf.saved_model.save`` makes of a model of Keras 3."""
    import tensorflow as tf

    path = new_folder() / "signature"
    tf.saved_model.save(keras_network(), str(path))
    return path


@functools.cache
def version_1() -> Path:
    """By TensorFlow 1's builder: tags, a graph, and no objects."""
    import tensorflow as tf

    path = new_folder() / "version_1"
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        photos = v1.placeholder(tf.float32, [None, SIZE, SIZE, 3])
        kernel = v1.get_variable("kernel", [3, 3, 3, WIDTH])
        features = tf.reduce_mean(tf.nn.conv2d(photos, kernel, 2, "SAME"), [1, 2])
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": photos}, {"y": features})
    return path
