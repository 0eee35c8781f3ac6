"""What is trained: the setting ``unfreeze`` → layers and the deepest boundary before them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headstart.errors import BoundaryError, did_you_mean
from headstart.models.blocks import Block
from headstart.models.boundary import Boundary, list_blocks, list_boundaries
from headstart.models.graph import list_layers, list_sublayers, list_trainable, trace
from headstart.recipe import BATCHNORM

if TYPE_CHECKING:
    import keras

_LAST_BLOCKS = re.compile(r"last_(?:block|(\d+)_blocks?)")


@dataclass(frozen=True)
class Unfreeze:
    """A resolved setting.

    Attributes:
        setting: As the user gave it.
        layers: Names of the layers that are trained, in the order of computation.
        boundary: The deepest before the first of them; the network's output when there is none.
            Where several boundaries are equally deep in multiply-adds, the narrowest.
        batchnorm: ``"inference"``: BatchNormalization keeps its statistics, scale and shift.
            ``"affine"``: scale and shift are trained, the statistics stay. ``"train"``: it
            normalises with the statistics of each batch and moves its own, as when the backbone
            was trained; a photo's result then depends on the others in its batch, so that this
            needs batches of 32 or more and many photos.
    """

    setting: str | int
    layers: tuple[str, ...]
    boundary: Boundary
    batchnorm: str = "inference"


def resolve_unfreeze(
    model: keras.Model, unfreeze: str | int, batchnorm: str = "inference"
) -> Unfreeze:
    """Layers to train and the boundary before them.

    Args:
        model: A backbone.
        unfreeze: ``"none"``; a number N, the last N layers as Keras built them (for VGG16, 4 is
            block5_conv1 to block5_conv3 and their pool); the name of a block or stage, which is
            trained with all that follows; ``"last_block"``; ``"last_2_blocks"``, and so on;
            ``"half"``, the blocks before which at least half of the multiply-adds lie; ``"most"``,
            likewise a quarter of them; a regular expression, found anywhere in a layer's name; or
            ``"all"``.
        batchnorm: One of `BATCHNORM`.

    Raises:
        BoundaryError: Nothing of this name, or nothing in it that could be trained.

    >>> from headstart import load_backbone
    >>> found = resolve_unfreeze(load_backbone(weights=None), "last_block")
    >>> found.boundary.name, len(found.layers)
    ('block6d_add', 4)
    """
    if batchnorm not in BATCHNORM:
        raise BoundaryError(
            f"batchnorm={batchnorm!r} is not known.{did_you_mean(str(batchnorm), BATCHNORM)} "
            f"Accepted: {', '.join(BATCHNORM)}."
        )
    setting = _parse(unfreeze)
    boundaries = list_boundaries(model)
    if setting in ("none", 0):
        return Unfreeze(setting, (), boundaries[-1], batchnorm)
    selected = _select_steps(model, setting)
    graph = trace(model)
    steps = graph.steps if graph else ()
    chosen = [i for i in selected if list_trained(steps[i].layer, batchnorm)]
    if graph and not chosen:
        raise _nothing_to_train(model, setting, batchnorm, bool(selected))
    owners = {id(steps[i].layer) for i in chosen}  # all calls of a shared layer train with it
    chosen = [i for i, step in enumerate(steps) if id(step.layer) in owners]
    names = tuple(dict.fromkeys(steps[i].name.partition("#")[0] for i in chosen))
    if setting == "all":
        return Unfreeze(setting, names, boundaries[0], batchnorm)
    deepest = max(b.multiply_adds_before for b in boundaries if b.step < chosen[0])
    equal = [b for b in boundaries if b.step < chosen[0] and b.multiply_adds_before == deepest]
    best = min(equal, key=lambda b: (b.bytes_per_photo, -b.step))
    return Unfreeze(setting, names, best, batchnorm)


def is_in_every_network(unfreeze: str | int) -> bool:
    """Whether a setting names something whatever the network is, unlike a block or a number.

    >>> [is_in_every_network(setting) for setting in ("most", "last_block", "block5", 4)]
    [True, True, False, False]
    """
    return unfreeze in ("none", "all", "last_block", *SHARES_BEFORE)


def _parse(unfreeze: Any) -> str | int:
    if isinstance(unfreeze, bool) or not isinstance(unfreeze, (str, int)):
        raise BoundaryError(f"unfreeze={unfreeze!r} is not a setting. {_ACCEPTED}")
    if isinstance(unfreeze, int) or re.fullmatch(r"-?\d+", unfreeze):
        if int(unfreeze) < 0:
            raise BoundaryError(f"unfreeze={unfreeze} is negative. {_ACCEPTED}")
        return int(unfreeze)
    if not unfreeze.strip():
        raise BoundaryError(f"unfreeze={unfreeze!r} is empty. {_ACCEPTED}")
    return unfreeze


# Setting → least share of the multiply-adds that lies before what is trained.
SHARES_BEFORE = {"half": 0.5, "most": 0.25}

_ACCEPTED = (
    'Accepted: "none", a number of layers, the name of a block, "last_block", "last_2_blocks", '
    '"half", "most", a regular expression on layer names, "all".'
)


def _select_steps(model: keras.Model, setting: str | int) -> list[int]:
    """Numbers of the steps that a setting names, with weights or without."""
    graph = trace(model)
    if graph is None:
        raise BoundaryError(
            f"{model.name} shows no graph (it has a call of its own), so that "
            f'unfreeze={setting!r} cannot be found in it. Accepted here: "none".'
        )
    everything = list(range(len(graph.steps)))
    if setting == "all":
        return everything
    if isinstance(setting, int):
        return _select_last_layers(model, setting)
    blocks = list_blocks(model)
    first = _find_first(model, setting, blocks)
    if first is not None:
        return everything[first:]
    try:
        pattern = re.compile(setting)
    except re.error as error:
        raise _unknown(model, setting, blocks, f"it is no regular expression ({error})") from None
    found = [i for i in everything if pattern.search(graph.steps[i].name)]
    if not found:
        raise _unknown(model, setting, blocks)
    return found


def _select_last_layers(model: keras.Model, count: int) -> list[int]:
    graph, layers = trace(model), list_layers(model)
    if count > len(layers):
        raise BoundaryError(
            f"unfreeze={count}, but {model.name} has {len(layers)} layers. To train all of them: "
            'unfreeze="all".'
        )
    last = {id(layer) for layer in layers[-count:]}
    return [i for i, step in enumerate(graph.steps if graph else ()) if id(step.layer) in last]


def _find_first(model: keras.Model, setting: str, blocks: tuple[Block, ...]) -> int | None:
    """The first step of what is named as the last K blocks, a block or a stage."""
    last = _LAST_BLOCKS.fullmatch(setting)
    if last:
        count = int(last[1] or 1)
        if not 1 <= count <= len(blocks):
            raise BoundaryError(
                f"unfreeze={setting!r}, but {model.name} has {len(blocks)} blocks: "
                f"{', '.join(block.name for block in blocks) or 'none were found'}."
            )
        return blocks[-count].first
    if setting in SHARES_BEFORE and blocks:
        known = {boundary.step: boundary.share_before for boundary in list_boundaries(model)}
        share = SHARES_BEFORE[setting]
        # A network of one block is trained from it on.
        return next((b.first for b in blocks if known[b.first - 1] >= share), blocks[-1].first)
    return next((b.first for b in blocks if setting in (b.name, b.stage)), None)


def _unknown(
    model: keras.Model,
    setting: str,
    blocks: tuple[Block, ...],
    why: str = "no layer matches it as a regular expression",
) -> BoundaryError:
    names = [block.name for block in blocks]
    stages = [block.stage for block in blocks if block.stage]
    known = dict.fromkeys([*names, *stages, "none", "last_block", *SHARES_BEFORE, "all"])
    return BoundaryError(
        f"{setting!r} is not a block of {model.name}, and {why}.{did_you_mean(setting, known)} "
        f"Its blocks: {', '.join(names) or 'none'}. {_ACCEPTED}"
    )


def _nothing_to_train(
    model: keras.Model, setting: str | int, batchnorm: str, was_found: bool
) -> BoundaryError:
    why = "the layers that it names have no weights that may be trained"
    if was_found and batchnorm == "inference":
        why += ' (BatchNormalization stays as it is with batchnorm="inference")'
    return BoundaryError(
        f"unfreeze={setting!r} leaves nothing to train in {model.name}: {why}. Take more layers, "
        'or "none" to train the head only.'
    )


def list_trained(layer: Any, batchnorm: str = "inference") -> list[Any]:
    """The variables of a layer that can be trained; those of BatchNormalization only if asked."""
    if batchnorm != "inference":
        return list_trainable(layer)
    frozen = {id(v) for norm in list_batchnorms(layer) for v in norm.variables}
    return [variable for variable in list_trainable(layer) if id(variable) not in frozen]


def list_batchnorms(layer: Any) -> list[Any]:
    """The BatchNormalization layers within a layer or model, itself included."""
    from keras.layers import BatchNormalization

    return [inner for inner in list_sublayers(layer) if isinstance(inner, BatchNormalization)]


def set_trainable(model: keras.Model, unfreeze: Unfreeze) -> None:
    """Set ``trainable`` on every layer of a backbone, as resolved; compile it after this.

    Keras passes ``training=True`` from ``fit`` also to a backbone that was called with
    ``training=False``. What keeps a BatchNormalization in inference mode is ``trainable = False``,
    which it gets here everywhere but with ``batchnorm="train"`` in layers that are trained.

    Raises:
        BoundaryError: ``batchnorm="affine"``, which Keras's ``fit`` cannot do.
    """
    if unfreeze.batchnorm == "affine" and unfreeze.layers:
        raise BoundaryError(
            'batchnorm="affine" needs headstart.fine_tune: in fit, Keras trains scale and shift of '
            "a BatchNormalization only together with its statistics."
        )
    model.trainable = bool(unfreeze.layers)
    if not unfreeze.layers:
        return
    graph, names = trace(model), set(unfreeze.layers)
    trained = {id(step.layer) for step in (graph.steps if graph else ()) if step.name in names}
    for layer in list_layers(model):
        if id(layer) not in trained:
            layer.trainable = False
        elif unfreeze.batchnorm == "inference":
            for norm in list_batchnorms(layer):
                norm.trainable = False


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a part of a network.

    Attributes:
        name: Of the block; ``(stem)`` for what comes before the first.
        layers: Layers with weights.
        trainable: Parameters that are trained.
        frozen: Parameters that are not.
    """

    name: str
    layers: int
    trainable: int
    frozen: int


def count_parameters(
    model: keras.Model, trained: Iterable[Any] | None = None
) -> tuple[ParameterCount, ...]:
    """Trainable and frozen parameters per block of a backbone.

    Args:
        model: The backbone.
        trained: The variables that are trained; by default as its flags are now.

    >>> from headstart import load_backbone
    >>> sum(row.frozen for row in count_parameters(load_backbone(weights=None)))
    3413024
    """
    graph, blocks = trace(model), list_blocks(model)
    rows: dict[str, list[int]] = {}
    variables = model.trainable_variables if trained is None else trained
    chosen = {id(variable) for variable in variables}
    seen: set[int] = set()
    for number, step in enumerate(graph.steps if graph else ()):
        weights = getattr(step.layer, "weights", [])
        if not weights or id(step.layer) in seen:
            continue
        seen.add(id(step.layer))
        block = next((b.name for b in blocks if b.first <= number <= b.last), "(stem)")
        trainable = sum(math.prod(v.shape) for v in weights if id(v) in chosen)
        row = rows.setdefault(block, [0, 0, 0])
        row[0] += 1
        row[1] += trainable
        row[2] += sum(math.prod(v.shape) for v in weights) - trainable
    if graph is None:
        return (ParameterCount(model.name, 1, 0, model.count_params()),)
    return tuple(ParameterCount(name, *row) for name, row in rows.items())
