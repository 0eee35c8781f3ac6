"""Blocks of a network, found from its graph and the names of its layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headstart.models.graph import Step, list_sublayers

# What the families of keras.applications and KerasHub call the layers of one block.
_FAMILIES = tuple(
    re.compile(pattern)
    for pattern in (
        r"^(.*?stage_?\d+_block_?\d+)(?:_|$)",  # ConvNeXt
        r"^((?:conv|stack)\d+_block\d+)(?:_|$)",  # ResNet, DenseNet; KerasHub's ResNet
        r"^(block\d+[a-z])(?:_|$)",  # EfficientNet
        r"^(block_\d+)(?:_|$)",  # MobileNetV2
        r"^(block\d+_\d+)(?:_|$)",  # InceptionResNetV2
        r"^(block\d+)(?:_|$)",  # VGG, Xception
        r"^(expanded_conv(?:_\d+)?)_[a-z]",  # MobileNetV3
        r"^(conv)_(?:dw|pw|pad)(_\d+)(?:_|$)",  # MobileNet
    )
)
_PLACE_IN_STAGE = re.compile(r"_block_?\d+$|(?<=\d)[a-z]$")


@dataclass(frozen=True)
class Block:
    """Layers that belong together; what follows the last block belongs to it.

    Attributes:
        name: The common part of their names, or that of the layer that joins their branches.
        stage: The larger group, such as ``conv5`` for ``conv5_block3``; else None.
        first: Number of its first step in the graph.
        last: Number of its last step.
    """

    name: str
    stage: str | None
    first: int
    last: int


def find_blocks(steps: Sequence[Step], ends: Sequence[int]) -> tuple[Block, ...]:
    """The blocks of a graph.

    Between two single-tensor cuts lies a segment. Segments with a common name, by the conventions
    of the known families, are a block. Without such names, a block ends where branches join or
    with a layer made of layers; in a plain chain, where the map gets smaller.

    Args:
        steps: Of the graph.
        ends: Numbers of the steps after which it can be cut, ascending.
    """
    segments = list(zip([0, *(end + 1 for end in ends)], ends, strict=False))
    keys = [_find_key([step.name for step in steps[a : b + 1]]) for a, b in segments]
    if not any(keys):
        keys = list(_name_by_joins(steps, segments))
    if not any(keys):
        keys = list(_name_by_size(steps, segments))
    blocks: list[Block] = []
    for key, (first, last) in zip(keys, segments, strict=True):
        is_same = bool(blocks) and key in (None, blocks[-1].name)
        if is_same:
            before = blocks.pop()
            blocks.append(Block(before.name, before.stage, before.first, last))
        elif key is not None:
            blocks.append(Block(key, _find_stage(key), first, last))
    return tuple(blocks)


def _find_key(names: Sequence[str]) -> str | None:
    """The block that most of the layers belong to by their names."""
    votes: Counter[str] = Counter()
    for name in names:
        base = name.rpartition("/")[2]
        found = next((m for family in _FAMILIES if (m := family.match(base))), None)
        if found:
            votes["".join(found.groups())] += 1
    return votes.most_common(1)[0][0] if votes else None


def _find_stage(name: str) -> str | None:
    stage = _PLACE_IN_STAGE.sub("", name)
    return stage if stage and stage != name else None


def _name_by_joins(
    steps: Sequence[Step], segments: Sequence[tuple[int, int]]
) -> Iterator[str | None]:
    """A block is named by the step that ends it; chains with weights before it are part of it."""
    waiting = 0
    names: list[str | None] = []
    for first, last in segments:
        part = steps[first : last + 1]
        if len(part) > 1 or _is_composite(part[0]):
            name: str | None = steps[last].name
            names += [name] * (waiting + 1)
            waiting = 0
        elif waiting or _has_weights(part[0]):
            waiting += 1
        else:
            names.append(None)  # an activation or a pool: of the block before
    return iter(names + [None] * waiting)


def _is_composite(step: Step) -> bool:
    return any(inner.weights for inner in list_sublayers(step.layer)[1:])


def _has_weights(step: Step) -> bool:
    return bool(getattr(step.layer, "weights", None))


def _name_by_size(
    steps: Sequence[Step], segments: Sequence[tuple[int, int]]
) -> Iterator[str | None]:
    count, is_smaller = 0, True
    for first, last in segments:
        step = steps[last]
        shrinks = steps[first].input_shapes[0][1:-1] != step.output_shapes[0][1:-1]
        if _has_weights(step) and (shrinks or is_smaller):
            count += 1
            is_smaller = False
            yield f"block{count}"
        else:
            is_smaller = is_smaller or shrinks
            yield None
