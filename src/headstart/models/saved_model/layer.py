"""A TF2 SavedModel as a layer of Keras 3."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from headstart.errors import BackboneError, require_package
from headstart.files import digest_file
from headstart.models.saved_model.network import DEFAULT_SIZE, Network, open_network
from headstart.models.saved_model.program import check_program

BATCHNORM = ("inference", "train")

# Widths of the usual classifiers: ImageNet with and without a background class, ImageNet-21k.
_CLASSIFIER_WIDTHS = {1000, 1001, 21_841, 21_843}
LOGITS = "logits"


def digest_saved_model(folder: Path) -> str:
    """The sha256 that changes with what a SavedModel computes: its graph, variables and assets.

    Names and bytes count; where the folder lies does not.

    Raises:
        BackboneError: It has no graph.
    """
    paths = [folder / "saved_model.pb"]
    for name in ("variables", "assets"):
        paths += sorted(path for path in (folder / name).rglob("*") if path.is_file())
    digest = hashlib.sha256()
    try:
        for path in paths:
            digest.update(f"{path.relative_to(folder).as_posix()}:{digest_file(path)}\n".encode())
    except OSError as error:
        raise BackboneError(f"{path} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def build_layer(folder: Path, **settings: Any) -> Any:
    """A SavedModel as a Keras layer, frozen; see `SavedModelCalls` for the settings."""
    require_package("tensorflow", "keras", purpose="loading a SavedModel")
    return _layer_class()(str(folder), **settings)


@functools.cache
def _layer_class() -> type:
    # A class of Keras can only be made once Keras is there, which is not imported for --help.
    import keras

    @keras.saving.register_keras_serializable("headstart")
    class SavedModelLayer(SavedModelCalls, keras.layers.Layer):  # type: ignore[misc]
        __doc__ = SavedModelCalls.__doc__

    return SavedModelLayer


class SavedModelCalls:
    """A SavedModel as a layer from photos to features; a `keras.layers.Layer` where it is used.

    The layer's variables are those of the SavedModel, not copies: what trains the layer trains
    the SavedModel. Only those that its author meant to be trained are, and its regularisation
    losses are the layer's while it is trainable. It computes in the type it was saved in, also
    under mixed precision.

    Args:
        path: Folder of the SavedModel. Its graph is checked before anything of it runs.
        image_size: Side of the square photos in pixels; by default that of the signature, or 224
            where the signature leaves it open.
        output: The key of the features, where there are several outputs; ``"logits"`` accepts
            those of a classifier.
        batchnorm: ``"inference"``: the SavedModel is always called with ``training=False``, so
            that its statistics stay and its dropout is off while its variables are trained, since
            one flag rules both. ``"train"``: with ``training=True`` where Keras trains and the
            layer is trainable.
        sha256: `digest_saved_model` that it must have; given by `get_config`.
        trainable: Whether its variables are trained.
        settings: Of every Keras layer: ``name``, ``dtype``.

    Raises:
        BackboneError: It cannot be read, is refused, is not an image model, or cannot be trained.
    """

    def __init__(
        self,
        path: str,
        *,
        image_size: int | None = None,
        output: str | None = None,
        batchnorm: str = "inference",
        sha256: str | None = None,
        **settings: Any,
    ) -> None:
        import keras

        trainable = settings.pop("trainable", False)
        super().__init__(**(settings | {"dtype": "float32", "trainable": False}))
        if batchnorm not in BATCHNORM:
            raise BackboneError(f"batchnorm={batchnorm!r} is not known: {', '.join(BATCHNORM)}.")
        self.supports_jit = False
        self.folder, self.output_key, self.batchnorm = str(path), output, batchnorm
        self.network, self.sha256 = _load(Path(path), image_size, sha256)
        self.image_size = _choose_size(self.folder, self.network.size, image_size)
        self.feature_shape = self._probe()
        marks = {id(variable) for variable in self.network.trainable}
        # A Keras variable of a tf.Variable holds that very object.
        self.network_variables = [
            keras.Variable(v, trainable=id(v) in marks, name=v.name.replace("/", "_").split(":")[0])
            for v in self.network.variables
        ]
        self.built = True
        # Not by assignment, which Keras leaves out where the value is the same: the variables
        # have marks of their own.
        self._set_trainable(trainable)

    @property
    def trainable(self) -> bool:
        """Whether its variables are trained; settable."""
        value: bool = super().trainable  # type: ignore[misc]
        return value

    @trainable.setter
    def trainable(self, value: bool) -> None:
        """Set it; a BackboneError where there is nothing to train."""
        self._set_trainable(value)

    def _set_trainable(self, value: bool) -> None:
        if value and not self.network.trainable:
            why = "it names no variables to train"
            if self.network.kind == "signature":
                why = "it has only a signature for serving, which is its inference mode"
            raise BackboneError(
                f"{self.folder} cannot be trained: {why}. Use it frozen (trainable=False, the "
                "default), or take a reusable SavedModel of the network."
            )
        super(SavedModelCalls, type(self)).trainable.__set__(self, value)  # type: ignore[misc]

    def call(self, photos: Any, training: bool | None = False) -> Any:
        """Features of photos ``(batch, size, size, 3)`` in the range that the SavedModel wants."""
        import tensorflow as tf

        train = bool(training) and self.trainable and self.batchnorm == "train"
        features = self._forward(photos, train)
        if self.trainable:
            for loss in self.network.losses:
                self.add_loss(loss())  # type: ignore[attr-defined]
        return tf.ensure_shape(features, (None, *self.feature_shape))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """``(batch, …)``."""
        return (input_shape[0], *self.feature_shape)

    def compute_output_spec(self, photos: Any, training: bool | None = False) -> Any:
        """As Keras asks for it; nothing is traced for it."""
        import keras

        return keras.KerasTensor(self.compute_output_shape(photos.shape), "float32")

    def get_config(self) -> dict[str, Any]:
        """What `keras.saving` writes: where the SavedModel is and what it is, not its graph."""
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return config | {
            "path": str(Path(self.folder).resolve()),
            "image_size": self.image_size,
            "output": self.output_key,
            "batchnorm": self.batchnorm,
            "sha256": self.sha256,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SavedModelCalls:
        """The layer again; Keras's own would bury the sentence of an error in another."""
        return cls(**config)

    def _forward(self, photos: Any, training: bool) -> Any:
        import tensorflow as tf

        if self.network.dtype == "uint8":
            photos = tf.round(tf.clip_by_value(photos, 0.0, 255.0))
        outputs = self.network.forward(tf.cast(photos, self.network.dtype), training)
        return tf.cast(_pick(self.folder, outputs, self.output_key), tf.float32)

    def _probe(self) -> tuple[int, ...]:
        """The shape of one photo's features, by computing some: signatures often leave it open."""
        import tensorflow as tf

        side = self.image_size
        try:
            features = self._forward(tf.zeros((2, side, side, 3)), False)
        except (tf.errors.OpError, TypeError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackboneError(
                f"{self.folder} cannot compute photos of {side} × {side} pixels: {first}. Another "
                "size can be given with image_size."
            ) from error
        shape = tuple(features.shape)
        if len(shape) not in (2, 4) or shape[0] != 2:
            raise BackboneError(
                f"{self.folder} gives the shape {shape} for two photos; needed is a vector (batch, "
                "feature) or a map (batch, height, width, channel) of each."
            )
        if shape[1:] in {(width,) for width in _CLASSIFIER_WIDTHS} and self.output_key is None:
            raise BackboneError(
                f"{self.folder} gives {shape[1]} numbers, which is what a classifier of ImageNet "
                "gives, not features. Take its twin for features (feature_vector or "
                f"feature-vector in its address), or use these with output={LOGITS}."
            )
        return shape[1:]


def _load(path: Path, image_size: int | None, sha256: str | None) -> tuple[Network, str]:
    import tensorflow as tf

    if not path.is_dir():
        raise BackboneError(f"The SavedModel {path} is not there any more.")
    found = digest_saved_model(path) if (path / "saved_model.pb").exists() else ""
    if sha256 is not None and sha256 != found:
        raise BackboneError(
            f"The SavedModel in {path} has changed: its digest is {found or 'none'}, expected "
            f"{sha256}."
        )
    check_program(path)
    try:
        root = tf.saved_model.load(str(path))
    except Exception as error:  # the loader raises almost anything on damaged files
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"{path} cannot be loaded by TensorFlow: {first}.") from error
    return open_network(path, root, image_size), found


def _choose_size(path: str, size: tuple[int | None, int | None], image_size: int | None) -> int:
    height, width = size
    if height is not None and width is not None and height != width:
        raise BackboneError(f"{path} takes photos of {height} × {width} pixels; needed: a square.")
    fixed = height if height is not None else width
    if fixed is not None and image_size not in (None, fixed):
        raise BackboneError(f"{path} takes photos of {fixed} pixels only, not of {image_size}.")
    return fixed or image_size or DEFAULT_SIZE


def _pick(path: str, outputs: Any, key: str | None) -> Any:
    """The features among the outputs: the only one, the named one, or Hub's ``default``."""
    if isinstance(outputs, (list, tuple)):
        outputs = {str(number): output for number, output in enumerate(outputs)}
    if not isinstance(outputs, dict):
        if key not in (None, LOGITS):
            raise BackboneError(f"{path} has one output without a name; leave out output={key}.")
        return outputs
    if key is None or (key == LOGITS and key not in outputs):
        key = next(iter(outputs)) if len(outputs) == 1 else "default"
    if key not in outputs:
        listed = ", ".join(f"{name} {tuple(outputs[name].shape)}" for name in sorted(outputs))
        raise BackboneError(
            f"{path} has the outputs {listed}. Say which has the features: output=NAME (in a "
            "name: hub:…#output=NAME)."
        )
    return outputs[key]
