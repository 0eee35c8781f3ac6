"""Read ``saved_model.pb`` as data, and refuse what is not a photo network before it can run.

``tf.saved_model.load`` runs things: it restores the variables and calls the initialisers of
resources. So the graph is checked first, with nothing but the parser of its protocol buffer.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headstart.errors import BackboneError
from headstart.models.saved_model.operators import CHECKPOINT, PURE

_GRAPH = "saved_model.pb"
_MOST_GRAPH_BYTES = 2**31 - 1  # of any protocol buffer

# Classes of objects that the loader rebuilds by their own code; these only hold an array.
_REGISTERED = {"", "tf.TrackableConstant"}

_TF1 = (
    "{folder} was saved by TensorFlow 1 ({why}); read are TF2 SavedModels. Take the TF2 version of "
    "the model: at Kaggle it is listed under the framework tensorFlow2, and at tfhub.dev its "
    "address usually ends with a higher number."
)


def check_program(folder: Path) -> None:
    """Refuse a SavedModel that cannot be read, is not of TensorFlow 2, or does more than compute.

    Allowed are the operators of `headstart.models.saved_model.operators`, in every function and in
    the graph. This holds back what a stranger's graph could do on purpose. It does not make
    TensorFlow's own code sound: a malformed number may still crash an operator
    (https://github.com/tensorflow/tensorflow/blob/master/SECURITY.md).

    Args:
        folder: That of ``saved_model.pb``.

    Raises:
        BackboneError: With what is refused, and what to do.
    """
    graph = _read_graph(folder)
    objects = graph.object_graph_def
    for asset in graph.asset_file_def:
        if Path(asset.filename).name != asset.filename or "\\" in asset.filename:
            raise _refusal(folder, f"names the file {asset.filename!r}, which is not its own")
    for name in {node.registered_name for node in objects.nodes} - _REGISTERED:
        raise _refusal(folder, f"holds an object of the registered class {name!r}")
    _check_operators(folder, graph)


def _read_graph(folder: Path) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / _GRAPH
    if (folder / "tfhub_module.pb").exists():
        raise BackboneError(_TF1.format(folder=folder, why="it has a tfhub_module.pb"))
    if not path.is_file():
        there = sorted(p.name for p in folder.iterdir())[:8]
        raise BackboneError(
            f"{folder} has no {_GRAPH}, so it is not a SavedModel (it has: "
            f"{', '.join(there) or 'nothing'}). Give the folder that has one."
        )
    # TensorFlow would put the pieces of a graph in parts together in place of what is read here.
    if (folder / "saved_model.cpb").exists():
        raise BackboneError(f"{folder} has a graph in parts (saved_model.cpb), which is not read.")
    if path.stat().st_size > _MOST_GRAPH_BYTES:
        raise BackboneError(f"{path} is larger than 2 GiB, so it is not a graph.")
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError
        raise BackboneError(f"{path} is damaged, or not the graph of a SavedModel.") from error
    graphs = model.meta_graphs
    if not graphs:
        raise BackboneError(f"{path} is damaged: it holds no graph.")
    if len(graphs) > 1:
        tags = "; ".join(", ".join(graph.meta_info_def.tags) or "none" for graph in graphs)
        raise BackboneError(_TF1.format(folder=folder, why=f"several graphs with the tags {tags}"))
    if not graphs[0].HasField("object_graph_def"):
        raise BackboneError(_TF1.format(folder=folder, why="a graph without objects"))
    return graphs[0]


def _check_operators(folder: Path, graph: Any) -> None:
    library = graph.graph_def.library
    bodies = {function.signature.name: function.node_def for function in library.function}
    callable_names = {*graph.object_graph_def.concrete_functions}
    callable_names |= {gradient.gradient_func for gradient in library.gradient}
    callable_names |= {gradient.gradient_func for gradient in library.registered_gradients}
    reached = _reach(callable_names, bodies)
    refused: dict[str, str] = {}
    for name, nodes in [("the graph", graph.graph_def.node), *sorted(bodies.items())]:
        allowed = PURE if name in reached else PURE | CHECKPOINT
        for node in nodes:
            if node.op not in allowed and node.op not in bodies:
                refused.setdefault(node.op, name)
    if refused:
        shown = ", ".join(f"{op} (in {name})" for op, name in sorted(refused.items())[:5])
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        noun = "operator" if len(refused) == 1 else "operators"
        raise _refusal(
            folder,
            f"has the {noun} {shown}{more}, outside of those that compute a photo network: "
            "operators can read and write files, open connections and call other programs",
        )


def _reach(names: Iterable[str], bodies: dict[str, Any]) -> set[str]:
    """The functions, and all that they name."""
    reached: set[str] = set()
    waiting = [name for name in names if name in bodies]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for node in bodies[name]:
            named = [node.op]
            for value in node.attr.values():
                named += [value.func.name, *(function.name for function in value.list.func)]
            waiting += [other for other in named if other in bodies]
    return reached


def _refusal(folder: Path, what: str) -> BackboneError:
    return BackboneError(
        f"{folder} is refused: it {what}. Nothing of it was run. If you trust its author, load it "
        "yourself in Keras, and give that model as the backbone in place of a name."
    )
