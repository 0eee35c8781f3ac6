"""Where an ONNX graph can be cut in two, and what two graphs have in common.

A bundle's graph is all there is of a backbone that came from a SavedModel or a file; it is the same
kind of graph for every source, so that one way of cutting it serves all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headstart.errors import require_package

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Cut:
    """A tensor that alone carries what is known of the photos.

    Attributes:
        name: Of the tensor.
        digest: sha256 of all that leads to it: operators, their settings, weights. Names do not
            count, so that the same network written twice has the same.
        share: Of the operators that see photos, those before it.
    """

    name: str
    digest: str
    share: float


def parse_graph(graph: bytes) -> onnx.ModelProto:
    """The model of a graph that was checked (opening a session does it).

    Raises:
        MissingPackageError: The package onnx is not installed.
    """
    require_package("onnx", purpose="cutting a graph in two")
    import onnx

    return onnx.load_from_string(graph)


def list_cuts(model: onnx.ModelProto, output: str | None = None) -> list[str]:
    """Tensors that alone carry what is known of the photos, in the order of the graph.

    What follows one of them can be computed from it without anything before it.

    Args:
        model: A graph with one input.
        output: The only output that is wanted; all of them by default.
    """
    last_use: dict[str, int] = {}
    for place, node in enumerate(model.graph.node):
        last_use.update(dict.fromkeys(node.input, place))
    ends = [value.name for value in model.graph.output] if output is None else [output]
    last_use.update(dict.fromkeys(ends, len(model.graph.node)))
    photos = model.graph.input[0].name
    known, alive = {photos}, {photos}
    cuts: list[str] = []
    for place, node in enumerate(model.graph.node):
        if known.isdisjoint(node.input):
            continue
        known.update(node.output)
        alive.update(node.output)
        alive = {name for name in alive if last_use.get(name, -1) > place}
        if len(alive) == 1:
            cuts += alive
    return cuts


def describe_cuts(model: onnx.ModelProto) -> list[Cut]:
    """All of them, with what leads there; in the order of the graph."""
    digests = _digest_tensors(model)
    known = {model.graph.input[0].name}
    place: dict[str, int] = {}
    for node in model.graph.node:
        if not known.isdisjoint(node.input):
            known.update(node.output)
            place.update(dict.fromkeys(node.output, len(place) + 1))
    last = max(place.values(), default=1)
    return [Cut(name, digests[name], place[name] / last) for name in list_cuts(model)]


def _digest_tensors(model: onnx.ModelProto) -> dict[str, str]:
    sets = sorted((each.domain, each.version) for each in model.opset_import)
    photos = model.graph.input[0]
    digests = {"": "", photos.name: _digest(sets, photos.type)}
    digests |= {each.name: _digest(each) for each in model.graph.initializer}
    for node in model.graph.node:
        settings = [(each.name, _digest(each)) for each in node.attribute]
        inputs = [digests[name] for name in node.input]
        found = _digest(node.domain, node.op_type, sorted(settings), inputs)
        digests |= {name: _digest(found, number) for number, name in enumerate(node.output)}
    return digests


def _digest(*parts: Any) -> str:
    """sha256 of plain data, and of protocol messages without their names."""
    found = hashlib.sha256()
    for part in parts:
        if hasattr(part, "SerializeToString"):
            plain = type(part)()
            plain.CopyFrom(part)
            for field in ("name", "doc_string"):
                if field in part.DESCRIPTOR.fields_by_name:
                    plain.ClearField(field)
            found.update(plain.SerializeToString(deterministic=True))
        else:
            found.update(json.dumps(part).encode() + b"\n")
    return found.hexdigest()


def take_outputs(model: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """The graph with other tensors of it as its outputs."""
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    known = {value.name: value for value in model.graph.output}
    del changed.graph.output[:]
    for name in names:
        # Of what lies within, onnxruntime finds type and shape itself.
        changed.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
    return bytes(changed.SerializeToString())


def take_rest(
    model: onnx.ModelProto, name: str, shape: tuple[int, ...], outputs: Iterable[str]
) -> bytes:
    """The graph from a cut to some outputs; its input has the name of the cut.

    Args:
        model: The whole graph.
        name: Of the tensor that becomes the input.
        shape: Of the tensor, with any number of photos.
        outputs: Of the whole graph, none of them before the cut and none the cut itself.
    """
    import onnx

    wanted, nodes = set(outputs), []
    kept_outputs = [value for value in model.graph.output if value.name in wanted]
    for node in reversed(model.graph.node):
        if wanted.isdisjoint(node.output) or name in node.output:
            continue
        nodes.append(node)
        wanted.update(each for each in node.input if each != name)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    for field in (graph.node, graph.input, graph.output, graph.value_info):
        del field[:]
    graph.node.extend(reversed(nodes))
    kept = [each for each in graph.initializer if each.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    sides = ["batch", *shape[1:]]
    kind = onnx.TensorProto.FLOAT
    graph.input.append(onnx.helper.make_tensor_value_info(name, kind, sides))
    graph.output.extend(kept_outputs)
    return bytes(changed.SerializeToString())
