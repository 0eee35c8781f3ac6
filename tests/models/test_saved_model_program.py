"""A SavedModel is a program: what is more than a photo network is refused before it runs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import saved_models
from conftest import needs_time

from headstart import load_backbone
from headstart.errors import BackboneError
from headstart.models.saved_model.operators import CHECKPOINT, PURE
from headstart.models.saved_model.program import check_program


def edit(source: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a SavedModel with its graph changed."""
    from tensorflow.core.protobuf import saved_model_pb2

    shutil.copytree(source, folder)
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((folder / "saved_model.pb").read_bytes())
    change(model)
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder


def find_function(model: Any, part: str) -> Any:
    functions = model.meta_graphs[0].graph_def.library.function
    return next(f for f in functions if part in f.signature.name)


@pytest.mark.parametrize(
    "path",
    [
        saved_models.reusable,
        saved_models.module,
        saved_models.keyword_only,
        saved_models.several_outputs,
        saved_models.exported,
        saved_models.signature,
    ],
)
def test_networks_are_let_through(path: Callable[[], Path]) -> None:
    check_program(path())


@needs_time
@pytest.mark.parametrize("name", ["MobileNetV3Small"])
def test_networks_of_keras_are_let_through(name: str, tmp_path: Path) -> None:
    import keras

    build = getattr(keras.applications, name)
    model = build(weights=None, include_top=False, input_shape=(64, 64, 3))
    model.export(str(tmp_path / name), verbose=False)
    check_program(tmp_path / name)


# ---- what would run, if it were not refused


def write_on_load(path: Path, marker: Path) -> Path:
    """A SavedModel that writes a file when it is loaded, by the initialiser of a resource."""
    import tensorflow as tf

    class Resource(tf.saved_model.experimental.TrackableResource):
        @tf.function(input_signature=[])
        def _create_resource(self) -> Any:
            return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="r")

        @tf.function(input_signature=[])
        def _initialize(self) -> Any:
            tf.io.write_file(str(marker), "it ran")
            return tf.constant(1)

        @tf.function(input_signature=[])
        def _destroy_resource(self) -> None:
            return None

    root = tf.train.Checkpoint(resource=Resource())
    root.__call__ = tf.function(
        lambda photos: (
            tf.reduce_mean(photos, [1, 2])
            + tf.cast(root.resource.resource_handle is not None, tf.float32)
        ),
        input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32)],
    )
    tf.saved_model.save(root, str(path))
    return path


def test_what_runs_while_it_is_loaded_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    marker = tmp_path / "marker"
    path = write_on_load(tmp_path / "net", marker)
    marker.unlink(missing_ok=True)  # writing it runs the initialiser, too
    with pytest.raises(
        BackboneError, match=r"is refused: it has the operator WriteFile \(in __inf"
    ):
        load_backbone(f"hub:{path}")
    assert not marker.exists()
    tf.saved_model.load(str(path))
    assert marker.exists(), "the example does not do what it is an example of"


def _read_file(photos: Any) -> Any:
    import tensorflow as tf

    secret = tf.strings.length(tf.io.read_file("/etc/hostname"))
    return tf.reduce_mean(photos, [1, 2]) + tf.cast(secret, tf.float32)


def _read_whole_file(photos: Any) -> Any:
    import tensorflow as tf

    # As in a published example, which reads a file through a queue and a reader.
    names = tf.data.Dataset.list_files("/etc/host*")
    return tf.reduce_mean(photos, [1, 2]) + tf.cast(names.reduce(0, lambda n, _: n + 1), "float32")


def _call_python(photos: Any) -> Any:
    import tensorflow as tf

    features = tf.numpy_function(lambda x: x.mean((1, 2)), [photos], tf.float32)
    return tf.ensure_shape(features, [None, 8])


def _print(photos: Any) -> Any:
    import tensorflow as tf

    tf.print("photos", output_stream="file:///tmp/printed")
    return tf.reduce_mean(photos, [1, 2])


def _look_up(photos: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_mean(photos, [1, 2]) + tf.cast(
        tf.io.decode_raw(tf.io.serialize_tensor(photos), tf.uint8)[0], tf.float32
    )


@pytest.mark.parametrize(
    ("make", "operators"),
    [
        (_read_file, "ReadFile"),
        (_read_whole_file, "MatchingFilesDataset|ListFiles|MatchingFiles"),
        (_call_python, "PyFunc"),
        (_print, "PrintV2"),
        (_look_up, "SerializeTensor"),
    ],
)
def test_operators_that_do_more_are_named(make: Callable[[Any], Any], operators: str) -> None:
    path = saved_models.with_output(make, make.__name__)
    with pytest.raises(BackboneError, match=rf"is refused: it has the operators? .*({operators})"):
        load_backbone(f"hub:{path}")


@pytest.mark.parametrize("operator", ["XlaCallModule", "RemoteCall", "TPUExecute", "NoSuchThing"])
@pytest.mark.parametrize("where", ["graph", "function"])
def test_unknown_operators_are_refused_wherever_they_are(
    operator: str, where: str, tmp_path: Path
) -> None:
    def change(model: Any) -> None:
        graph = model.meta_graphs[0].graph_def
        nodes = graph.node if where == "graph" else find_function(model, "__call__").node_def
        nodes.add(name="added", op=operator)

    path = edit(saved_models.module(), tmp_path / "net", change)
    with pytest.raises(BackboneError, match=rf"the operator {operator} \(in .*If you trust"):
        load_backbone(f"hub:{path}")


@pytest.mark.parametrize("way", ["call", "operator", "list", "gradient"])
def test_the_functions_of_the_checkpoint_cannot_be_called(way: str, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        saver = find_function(model, "traced_save").signature.name
        call = find_function(model, "__call__")
        if way == "call":
            node = call.node_def.add(name="added", op="StatefulPartitionedCall")
            node.attr["f"].func.name = saver
        elif way == "operator":
            call.node_def.add(name="added", op=saver)
        elif way == "list":
            node = call.node_def.add(name="added", op="Case")
            node.attr["branches"].list.func.add(name=saver)
        else:
            library = model.meta_graphs[0].graph_def.library
            library.registered_gradients.add(gradient_func=saver, registered_op_type="Mine")

    check_program(saved_models.module())
    path = edit(saved_models.module(), tmp_path / "net", change)
    with pytest.raises(BackboneError, match=r"MergeV2Checkpoints \(in __inference__traced_save"):
        load_backbone(f"hub:{path}")


def test_files_and_classes_of_others_are_refused(tmp_path: Path) -> None:
    def name_asset(model: Any) -> None:
        model.meta_graphs[0].asset_file_def.add(filename="../../secret.txt")

    def name_class(model: Any) -> None:
        model.meta_graphs[0].object_graph_def.nodes[0].registered_name = "package.Class"

    path = edit(saved_models.module(), tmp_path / "asset", name_asset)
    with pytest.raises(BackboneError, match=r"names the file '../../secret.txt'"):
        load_backbone(f"hub:{path}")
    path = edit(saved_models.module(), tmp_path / "class", name_class)
    with pytest.raises(BackboneError, match=r"registered class 'package.Class'"):
        load_backbone(f"hub:{path}")


def test_the_lists_are_of_known_operators_that_only_compute() -> None:
    from tensorflow.python.framework import op_def_registry

    unknown = {name for name in PURE | CHECKPOINT if op_def_registry.get(name) is None}
    assert unknown == set()
    telling = (
        "File|Read(?!Variable|AndSkip)|Write|Print|Py|Remote|Host|Send|Recv|Xla|TPU|Dataset|Table|"
    )
    telling += "Queue|Decode|Serialize|Save|Restore|Checkpoint|Debug|Collective|Handle(?!Op)|Empty$"
    found = {name for name in PURE if re.search(telling, name)} - {"DisableCopyOnRead"}
    assert found == set()
    page = (Path(__file__).parent.parent.parent / "docs" / "hub.md").read_text(encoding="utf-8")
    assert f"is one of the {len(PURE)} that" in page


# ---- what cannot be read


def test_version_1_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"saved by TensorFlow 1 \(a graph without objects\)"):
        load_backbone(f"hub:{saved_models.version_1()}")

    def add_graph(model: Any) -> None:
        model.meta_graphs.add().meta_info_def.tags.append("train")

    path = edit(saved_models.module(), tmp_path / "two", add_graph)
    with pytest.raises(BackboneError, match="several graphs with the tags serve; train"):
        load_backbone(f"hub:{path}")
    (path / "tfhub_module.pb").touch()
    with pytest.raises(BackboneError, match=r"tfhub_module\.pb") as caught:
        load_backbone(f"hub:{path}")
    assert "Take the TF2 version of the model: at Kaggle" in str(caught.value)


def test_what_is_no_saved_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keras.json").touch()
    with pytest.raises(BackboneError, match=r"has no saved_model.pb.*it has: keras.json"):
        load_backbone(f"hub:{tmp_path}")
    with pytest.raises(BackboneError, match="is not there, or is neither a folder nor one of"):
        load_backbone(f"hub:{tmp_path / 'nothing'}")
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(BackboneError, match="is damaged, or not the graph"):
        load_backbone(f"hub:{tmp_path}")
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(BackboneError, match="it holds no graph"):
        load_backbone(f"hub:{tmp_path}")
    (tmp_path / "saved_model.cpb").touch()
    with pytest.raises(BackboneError, match="a graph in parts"):
        load_backbone(f"hub:{tmp_path}")


def test_lost_variables_are_told(tmp_path: Path) -> None:
    shutil.copytree(saved_models.module(), tmp_path / "net")
    shutil.rmtree(tmp_path / "net" / "variables")
    with pytest.raises(BackboneError, match="cannot be loaded by TensorFlow: "):
        load_backbone(f"hub:{tmp_path / 'net'}")


def test_what_cannot_be_called_is_told(tmp_path: Path) -> None:
    import tensorflow as tf

    root = tf.train.Checkpoint(v=tf.Variable(1.0))
    tf.saved_model.save(root, str(tmp_path / "variable"))
    with pytest.raises(BackboneError, match="cannot be called, and has no signature"):
        load_backbone(f"hub:{tmp_path / 'variable'}")
    root.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([None, 8, 8, 3])])
    signatures = {"first": root.f, "second": root.f}
    tf.saved_model.save(root, str(tmp_path / "two"), signatures=signatures)
    with pytest.raises(BackboneError, match=r"has the signatures first, second. Needed is a"):
        load_backbone(f"hub:{tmp_path / 'two'}")
