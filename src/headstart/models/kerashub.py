"""``kerashub:PRESET_OR_FOLDER``: image backbones of KerasHub, by preset name or local folder."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import BackboneError, require_package
from headstart.models.backbones import BackboneName
from headstart.models.keras_graph import put_before, seeded
from headstart.models.preprocessing import Preprocessing, Triple, get_preprocessing
from headstart.models.weights_files import check_h5

if TYPE_CHECKING:
    import keras

_USUAL_SIZE = 224
_JSON_BYTES = 16 * 2**20
# Backbones of tokens whose first one stands for the photo, and that do not say so.
_CLASS_TOKEN = ("DeiTBackbone", "DINOV2Backbone", "DINOV3Backbone")


def load_kerashub(
    name: BackboneName, weights: str | Path | None, image_size: int | None
) -> keras.Model:
    """A KerasHub backbone with its preset's preprocessing in front.

    Args:
        name: A preset such as ``resnet_18_imagenet``, ``hf://…``, ``kaggle://…``, or a folder; with
            the options ``preprocessing`` (in place of the preset's own) and ``image_size``.
        weights: ``"imagenet"`` for those of the preset, or None for random ones.
        image_size: Side of the photos in pixels; the preset's own by default.

    Returns:
        A flat functional model from 0-255 RGB photos to the backbone's feature map. Of a backbone
        of tokens, as vision transformers are, it gives a vector: the class token, or the mean of
        the tokens where there is none.

    Raises:
        MissingPackageError: KerasHub is not installed.
        BackboneError: Unknown preset, no internet, or not an image backbone.
    """
    name.check_options("preprocessing", "image_size", "weights")
    require_package("keras_hub", purpose=f"the backbone kerashub:{name.name}")
    if weights not in ("imagenet", None):
        raise BackboneError(
            f"weights={str(weights)!r} does not go with kerashub:{name.name}, which brings its "
            "own; accepted are None for random ones, or nothing."
        )
    preset = _check_preset(name.name)
    converter = _load_converter(preset)
    asked = name.options.get("preprocessing")
    kind = get_preprocessing(asked) if asked else _read_converter(converter)
    backbone = _load(preset, weights is not None, None)
    own = _get_size(backbone)
    if image_size is not None and own not in (None, image_size):
        backbone = _load(preset, weights is not None, image_size)
    size = image_size or own or _size_of_converter(converter) or _USUAL_SIZE
    label = Path(preset).name or "kerashub"
    return put_before(backbone, kind, size, label, finish=_pool_tokens(backbone), is_copied=False)


def _check_preset(preset: str) -> str:
    """The preset, if it is an address, a known name, or a folder without foreign classes."""
    import keras_hub

    folder = Path(preset).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return str(folder)
    known = keras_hub.models.Backbone.presets
    if preset in known or "://" in preset:
        return preset
    raise BackboneError(
        f"{preset!r} is neither a preset of KerasHub nor a folder.{_suggest(preset, known)} "
        "See https://keras.io/keras_hub/presets; hf:// and kaggle:// addresses are taken, too."
    )


def _suggest(preset: str, known: Iterable[str]) -> str:
    """Presets that begin like the name, such as resnet_18_imagenet for resnet18, else near ones."""
    bare = {re.sub(r"\W|_", "", each).lower(): each for each in known}
    wanted = re.sub(r"\W|_", "", preset).lower()
    longer = sorted(each for key, each in bare.items() if wanted and key.startswith(wanted))
    if longer:
        return f" Did you mean {' or '.join(longer[:3])}?"
    near = difflib.get_close_matches(wanted, bare, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(bare[key] for key in near)}?" if near else ""


def _check_folder(folder: Path) -> None:
    """Refuse a preset folder whose files name classes outside of KerasHub, or other files."""
    config = folder / "config.json"
    if not config.is_file():
        raise BackboneError(f"{folder} is not a KerasHub preset: it has no config.json.")
    for path in (config, folder / "image_converter.json"):
        if path.is_file():
            _check_classes(_read_json(path), path)
    for path in folder.glob("*.h5"):
        check_h5(path)


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > _JSON_BYTES:
            raise BackboneError(f"{path} is larger than {_JSON_BYTES:,} bytes; refused.")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"{path} is not readable JSON: {error}.") from error


def _check_classes(config: Any, path: Path) -> None:
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            module, kind = str(value.get("module", "")), value.get("class_name")
            is_known = module.startswith("keras_hub.src.") or kind == "DTypePolicy"
            if kind is not None and not is_known:
                raise BackboneError(
                    f"{path} is refused: it names the class {module}.{kind}, which is not of "
                    "KerasHub."
                )
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _load(preset: str, with_weights: bool, image_size: int | None) -> keras.Model:
    from keras_hub.models import Backbone

    more = {} if image_size is None else {"image_shape": (image_size, image_size, 3)}
    try:
        with seeded():
            return Backbone.from_preset(preset, load_weights=with_weights, **more)
    except Exception as error:  # KerasHub, Kaggle and Hugging Face raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"kerashub:{preset} could not be loaded"
            f"{f' for photos of {image_size} pixels' if image_size else ''}: {reason} Without "
            "internet here, save the preset elsewhere (backbone.save_to_preset(FOLDER)) and give "
            "its folder: kerashub:FOLDER"
        ) from error


def _load_converter(preset: str) -> Any:
    """The preset's own preprocessing, or None where it has none."""
    from keras_hub.layers import ImageConverter

    try:
        return ImageConverter.from_preset(preset)
    except (FileNotFoundError, ValueError):  # no such file, or no converter for this backbone
        return None
    except Exception as error:  # as in `_load`
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"kerashub:{preset} could not be loaded: {reason}") from error


def _read_converter(converter: Any) -> Preprocessing:
    if converter is None:
        return get_preprocessing("none")
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return Preprocessing("preset", _triple(scale), _triple(offset))


def _triple(value: Any) -> Triple:
    numbers = [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)] * 3
    if len(numbers) != 3:
        raise BackboneError(
            f"The preset's preprocessing has {len(numbers)} channels; needed are 3."
        )
    return (numbers[0], numbers[1], numbers[2])


def _size_of_converter(converter: Any) -> int | None:
    size = getattr(converter, "image_size", None)
    return int(size[0]) if isinstance(size, (list, tuple)) and size[0] else None


def _get_size(backbone: keras.Model) -> int | None:
    inputs = backbone.inputs
    shape = tuple(inputs[0].shape) if len(inputs) == 1 else ()
    if len(shape) != 4 or shape[3] != 3:
        raise BackboneError(
            f"{type(backbone).__name__} is not an image backbone of one RGB photo: its inputs are "
            f"{[tuple(tensor.shape) for tensor in inputs]}."
        )
    return None if shape[1] is None else int(shape[1])


def _pool_tokens(backbone: keras.Model) -> Any:
    """What follows the backbone's output: tokens become one vector."""
    has_token = getattr(backbone, "use_class_token", type(backbone).__name__ in _CLASS_TOKEN)

    def finish(output: Any) -> Any:
        from keras.layers import GlobalAveragePooling1D

        if len(output.shape) != 3:
            return output
        return output[:, 0] if has_token else GlobalAveragePooling1D(name="token_mean")(output)

    return finish
