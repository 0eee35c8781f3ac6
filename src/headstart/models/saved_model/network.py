"""What a loaded SavedModel offers, whoever saved it: one function from photos to features.

Three kinds are known, in this order:

* ``reusable``: the object can be called and has its variables
  (https://www.tensorflow.org/hub/reusable_saved_models); Keras 2 saved such ones, too.
* ``exported``: by ``keras.Model.export`` of Keras 3: a function ``serve``, in inference mode.
* ``signature``: only a signature for serving. It can be computed, but not trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import BackboneError

DEFAULT_SIZE = 224

_DTYPES = ("float32", "float16", "float64", "bfloat16", "uint8")


@dataclass(frozen=True)
class Network:
    """A SavedModel's function and variables.

    Attributes:
        root: What ``tf.saved_model.load`` gave.
        kind: ``"reusable"``, ``"exported"`` or ``"signature"``.
        forward: ``(photos, training) → outputs``; ``photos`` of `dtype` and `size`.
        dtype: Of the photos.
        size: ``(height, width)`` of the photos; None where the signature leaves it open.
        has_training: Whether ``training`` makes a difference.
        variables: All of its variables, in a fixed order.
        trainable: Those of them that may be trained; empty where it cannot be trained.
        losses: Functions without arguments that give a regularisation loss each.
    """

    root: Any
    kind: str
    forward: Callable[[Any, bool], Any]
    dtype: str
    size: tuple[int | None, int | None]
    has_training: bool
    variables: Sequence[Any]
    trainable: Sequence[Any]
    losses: Sequence[Callable[[], Any]]


@dataclass(frozen=True)
class _Trace:
    """One way in which a function was traced: arguments with a place for the photos."""

    arguments: Any
    spec: Any
    training: bool | None

    def fill(self, photos: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        is_place = tf.nest.map_structure(lambda leaf: leaf is self.spec, self.arguments)
        filled = tf.nest.map_structure(
            lambda leaf, place: photos if place else leaf, self.arguments, is_place
        )
        return filled[0], filled[1]


def open_network(folder: Path, root: Any, image_size: int | None = None) -> Network:
    """Find function, input and variables of a loaded SavedModel.

    Args:
        folder: Where it is from, for messages.
        root: What ``tf.saved_model.load`` gave.
        image_size: Side of the photos, where several traces differ by size.

    Raises:
        BackboneError: No function from one batch of photos; the message says what there is.
    """
    kind, function, concrete = _find_function(folder, root)
    traces = _choose_traces(folder, kind, concrete, image_size)
    first = traces[min(traces, key=bool)]
    functions = [function for function, _ in concrete]
    variables, trainable = _find_variables(root, functions)
    if kind == "signature":
        trainable = []

    def forward(photos: Any, training: bool) -> Any:
        trace = traces.get(training, first)
        arguments, keywords = trace.fill(photos)
        return function(*arguments, **keywords)

    shape = first.spec.shape
    size = (None, None) if shape.rank is None else (shape[1], shape[2])
    return Network(
        root=root,
        kind=kind,
        forward=forward,
        dtype=first.spec.dtype.name,
        size=size,
        has_training={True, False} <= traces.keys(),
        variables=variables,
        trainable=trainable,
        losses=list(getattr(root, "regularization_losses", ())) if trainable else [],
    )


def _find_function(folder: Path, root: Any) -> tuple[str, Any, list[tuple[Any, list[str]]]]:
    """Kind, function, and its traces with the names of their positional arguments."""
    for kind, name in (("reusable", "__call__"), ("exported", "serve")):
        function: Any = getattr(root, name, None)
        found = getattr(function, "concrete_functions", None)
        if found:
            names = list(function.function_spec.fullargspec.args)
            return kind, function, [(concrete, names) for concrete in found]
    signatures = dict(getattr(root, "signatures", {}))
    if "serving_default" in signatures or len(signatures) == 1:
        signature = signatures.get("serving_default") or next(iter(signatures.values()))
        return "signature", signature, [(signature, [])]
    listed = f"the signatures {', '.join(sorted(signatures))}" if signatures else "no signature"
    raise BackboneError(
        f"{folder} has no function for photos: it cannot be called, and has {listed}. Needed is a "
        "__call__, or a signature named serving_default. Save it again with "
        "tf.saved_model.save(model, path, signatures=…)."
    )


def _choose_traces(
    folder: Path, kind: str, concrete: list[tuple[Any, list[str]]], image_size: int | None
) -> dict[bool, _Trace]:
    """The best trace for inference and, where there is one, for training."""
    found = [trace for item in concrete if (trace := _read_trace(*item))]
    if not found:
        inputs = {str(function.structured_input_signature) for function, _ in concrete}
        raise BackboneError(
            f"{folder} has no {kind} function of one batch of photos (batch, height, width, 3), "
            f"but: {'; '.join(sorted(inputs))}. Needed is an image model."
        )
    if found[0].spec.shape.rank is not None and found[0].spec.shape[0] is not None:
        raise BackboneError(
            f"{folder} takes exactly {found[0].spec.shape[0]} photos at a time; needed is an open "
            "batch (None). Save it again with such a signature."
        )

    def rank(trace: _Trace) -> tuple[bool, int]:
        size = trace.spec.shape[1] if trace.spec.shape.rank else None
        return size not in (None, image_size), _DTYPES.index(trace.spec.dtype.name)

    traces: dict[bool, _Trace] = {}
    for trace in sorted(found, key=rank):
        traces.setdefault(bool(trace.training), trace)
    if False not in traces:
        raise BackboneError(
            f"{folder} can only be called with training=True. Save it again with a trace of "
            "training=False too."
        )
    return traces


def _read_trace(function: Any, names: list[str]) -> _Trace | None:
    """A trace, where its only tensor can be photos."""
    import tensorflow as tf

    arguments = function.structured_input_signature
    specs = [leaf for leaf in tf.nest.flatten(arguments) if isinstance(leaf, tf.TensorSpec)]
    if len(specs) != 1 or specs[0].dtype.name not in _DTYPES:
        return None
    shape = specs[0].shape
    if shape.rank not in (None, 4) or (shape.rank == 4 and shape[3] not in (None, 3)):
        return None
    flags = {n: v for n, v in arguments[1].items() if isinstance(v, bool)}
    flags |= {n: v for n, v in zip(names, arguments[0], strict=False) if isinstance(v, bool)}
    named = [flags[n] for n in ("training", "is_training", "train") if n in flags]
    flag = named[0] if named else next(iter(flags.values()), None)
    return _Trace(arguments, specs[0], flag)


def _find_variables(root: Any, functions: list[Any]) -> tuple[list[Any], list[Any]]:
    """All variables and those to train: the author's choice, or else TensorFlow's marks."""
    import tensorflow as tf

    used = [variable for function in functions for variable in function.variables]
    named = [v for v in getattr(root, "variables", ()) if isinstance(v, tf.Variable)]
    variables = list({id(v): v for v in (*named, *used)}.values())
    chosen = getattr(root, "trainable_variables", None)
    if chosen is None:
        chosen = [v for v in variables if v.trainable]
    marks = {id(v) for v in chosen if isinstance(v, tf.Variable) and v.trainable}
    return variables, [v for v in variables if id(v) in marks]
