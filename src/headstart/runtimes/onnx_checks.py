"""What an ONNX graph from a stranger must not hold or need, seen before any runtime builds it.

onnxruntime builds what a graph describes: loops, functions, operators of vendors, files beside the
graph, tensors of any declared size. A frozen prefix and a head need none of it, so only plain
graphs of standard operators pass, whose constants are in the graph and as large as they say.

The bytes are walked by hand, because the packages that could (onnx, protobuf) are not part of an
installation that only predicts, and because onnxruntime tells of a graph only after it has built
it. The wire format is five rules (https://protobuf.dev/programming-guides/encoding); the numbers
of fields are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). What is
not listed is refused, so that nothing is read in another way there.

What a graph computes cannot be bounded by reading it (two short vectors multiply to a huge
matrix), so the memory of all sessions is limited as well.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from headstart.errors import BundleError

# Memory for weights and activations of all sessions of a process. The largest activations of VGG16,
# larger than any newer network's, are 0.1 GB for a batch of eight photos.
MEMORY_BYTES = 4 * 2**30

_DOMAINS = (b"", b"ai.onnx")
_MOST_NODES = 50_000

# Bytes per element by TensorProto.DataType: numbers and booleans. No text, no 4-bit packing.
_ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}

# By message: the fields that are accepted, and what the others of onnx.proto mean.
_ACCEPTED = {
    "model": {1, 2, 3, 4, 5, 6, 7, 8, 14},
    "graph": {1, 2, 5, 10, 11, 12, 13, 16},
    "node": {1, 2, 3, 4, 5, 6, 7, 9},
    "attribute": {1, 2, 3, 4, 5, 7, 8, 9, 10, 13, 20},
    "tensor": {1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 14, 16},
    "value": {1, 2, 3, 4},
    "type": {1, 6},
    "operator set": {1, 2},
}
_REFUSED = {
    ("model", 20): "training steps",
    ("model", 25): "functions of its own",
    ("graph", 14): "quantization notes",
    ("graph", 15): "sparse tensors",
    ("attribute", 6): "a graph within an operator (If, Loop, Scan)",
    ("attribute", 11): "graphs within an operator",
    ("attribute", 21): "an attribute of a function",
    ("attribute", 22): "sparse tensors",
    ("attribute", 23): "sparse tensors",
    ("tensor", 3): "a tensor in segments",
    ("tensor", 6): "a tensor of text",
    ("tensor", 13): "a tensor whose data is in another file",
    ("type", 4): "a sequence",
    ("type", 5): "a map",
    ("type", 8): "sparse tensors",
    ("type", 9): "an optional value",
}
# Fields of which readers take the last, or merge all: one only, so that all read the same.
_SINGLE = {
    "model": {7},
    "node": {4, 7},
    "attribute": {5, 20},
    "tensor": {2, 9, 14},
    "value": {2},
    "type": {1},
}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_graph(graph: bytes) -> None:
    """Refuse a serialised ONNX model that is more than a plain graph of standard operators.

    Raises:
        BundleError: With what was found.

    >>> check_graph(b"no graph")
    Traceback (most recent call last):
        ...
    headstart.errors.BundleError: The graph is refused: its bytes are not those of an ONNX model.
    """
    graphs = 0
    for number, value in _read(memoryview(graph), "model"):
        if number == 7:
            _check_inner_graph(_message(value))
            graphs += 1
        elif number == 8:
            _check_operator_set(_message(value))
    if not graphs:
        _refuse("its bytes are not those of an ONNX model")


def import_onnxruntime() -> Any:
    """The package, with its telemetry off: it would queue events and write the machine an id.

    It reads the variable when it is loaded (https://onnxruntime.ai/docs/reference/privacy.html).
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


@functools.cache
def limit_memory() -> tuple[str, str]:
    """Cap the memory of all sessions; the returned setting makes a session heed it.

    onnxruntime keeps the first cap of a process, whoever set it.
    """
    onnxruntime = import_onnxruntime()
    information = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # Except for the cap these are onnxruntime's own defaults.
    settings = {
        "max_mem": MEMORY_BYTES,
        "arena_extend_strategy": -1,
        "initial_chunk_size_bytes": -1,
        "max_dead_bytes_per_chunk": -1,
    }
    with contextlib.suppress(Exception):  # another library of this process has set one
        onnxruntime.create_and_register_allocator(information, onnxruntime.OrtArenaCfg(settings))
    return "session.use_env_allocators", "1"


def _refuse(what: str) -> NoReturn:
    raise BundleError(f"The graph is refused: {what}.")


# ---- the messages of onnx.proto


def _check_operator_set(message: memoryview) -> None:
    for number, value in _read(message, "operator set"):
        if number == 1 and bytes(_message(value)) not in (*_DOMAINS, b"ai.onnx.ml"):
            _refuse(f"it needs the operators of {_text(value)!r}; accepted are the standard ones")


def _check_inner_graph(message: memoryview) -> None:
    nodes = 0
    for number, value in _read(message, "graph"):
        if number == 1:
            nodes += 1
            _check_node(_message(value))
        elif number == 5:
            _check_tensor(_message(value))
        elif number in (11, 12, 13):
            _check_value(_message(value))
    if nodes > _MOST_NODES:
        _refuse(f"it has {nodes:,} operators, more than the limit of {_MOST_NODES:,}")


def _check_node(message: memoryview) -> None:
    fields = list(_read(message, "node"))
    domain = next((bytes(_message(value)) for number, value in fields if number == 7), b"")
    if domain not in _DOMAINS:
        kind = next((_text(value) for number, value in fields if number == 4), "")
        domain_text = domain.decode(errors="replace")
        _refuse(f"the operator {kind!r} is of {domain_text!r}; accepted are the standard ones")
    for number, value in fields:
        if number == 5:
            for inner, tensor in _read(_message(value), "attribute"):
                if inner in (5, 10):
                    _check_tensor(_message(tensor))


def _check_value(message: memoryview) -> None:
    for number, value in _read(message, "value"):
        if number == 2:
            for _ in _read(_message(value), "type"):
                pass


def _check_tensor(message: memoryview) -> None:
    """A constant is there as a whole: the elements it declares are the elements it brings."""
    sizes: list[int] = []
    kind = raw_bytes = typed = 0
    for number, value in _read(message, "tensor"):
        if number == 1:
            sizes += [value] if isinstance(value, int) else _read_varints(value)
        elif number == 2:
            kind = value if isinstance(value, int) else 0
        elif number == 9:
            raw_bytes = len(_message(value))
        elif number in (4, 5, 7, 10, 11):
            typed += _count_elements(number, value)
        elif number == 14 and value != 0:
            _refuse(f"it has {_REFUSED['tensor', 13]}")
    if kind not in _ELEMENT_BYTES:
        _refuse(f"it has a tensor of the type {kind}; accepted are numbers and booleans")
    declared = math.prod(sizes)
    found = raw_bytes / _ELEMENT_BYTES[kind] if raw_bytes else typed
    if found != declared or (raw_bytes and typed):
        shape = " x ".join(map(str, sizes)) or "a single number"
        _refuse(f"a tensor declares {shape} and brings {found:g} elements")


def _count_elements(number: int, value: int | memoryview) -> int:
    width = {4: 4, 10: 8}.get(number)
    if isinstance(value, int):
        return 1
    if width:  # one number, or many packed
        return len(value) // width
    return int((np.frombuffer(value, np.uint8) < 0x80).sum())


# ---- the wire format


def _read(message: memoryview, what: str) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message by number; each is accepted, and there once where it must be."""
    accepted, single, seen, position = _ACCEPTED[what], _SINGLE.get(what, ()), set(), 0
    while position < len(message):
        key, position = _read_varint(message, position)
        number, wire = key >> 3, key & 7
        value: int | memoryview
        if wire == _VARINT:
            value, position = _read_varint(message, position)
        else:
            if wire == _BYTES:
                size, position = _read_varint(message, position)
            else:
                size = {_FIXED64: 8, _FIXED32: 4}.get(wire, len(message))
            value = message[position : position + size]
            position += size
        if position > len(message):
            _refuse("its bytes are not those of an ONNX model")
        if number not in accepted:
            meaning = _REFUSED.get(
                (what, number), f"something unknown (field {number}) in a {what}"
            )
            _refuse("its bytes are not those of an ONNX model" if wire > 5 else f"it has {meaning}")
        if number in single and number in seen:
            _refuse(f"a {what} says the same (field {number}) twice")
        seen.add(number)
        yield number, value


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    _refuse("its bytes are not those of an ONNX model")


def _read_varints(message: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(message):
        value, position = _read_varint(message, position)
        values.append(value)
    return values


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        _refuse("its bytes are not those of an ONNX model")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode(errors="replace")
