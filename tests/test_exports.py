"""Exports: each predicts what the bundle does, and a twin that does not is refused."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_network
from PIL import Image
from typer.testing import CliRunner

import headstart
from headstart import ImageClassifier
from headstart.cli.commands import app
from headstart.data.decode import decode_photo, square_image
from headstart.errors import ExportError, OutputExistsError
from headstart.export import EXPORTERS, get_exporter, onnx_format
from headstart.export.card import write_card
from headstart.export.material import Material
from headstart.export.parity import Gap, Original, Parity, find_faults, make_trial, measure_parity
from headstart.exports import CARD, RECORD, Exporting
from headstart.predictor import Predictor

SIZE = 48
# Formats that can hold a network which is not in the catalogue.
FORMATS = {name: exporter for name, exporter in EXPORTERS.items() if name != "small"}
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def network() -> Any:
    return build_network(SIZE)


@pytest.fixture(scope="module")
def coloured(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of different sizes and shapes, whose colours tell as much as their form."""
    folder = tmp_path_factory.mktemp("coloured")
    rng = np.random.default_rng(0)
    inks = {"0": (190, 130, 120), "1": (120, 130, 190), "2": (170, 170, 120), "3": (120, 170, 130)}
    for path in sorted(digits_folder.glob("*/*.png")):
        grey = np.asarray(Image.open(path).convert("L"))[..., None] / 255
        ink = inks[path.parent.name] + rng.normal(0, 25, 3)
        pixels = np.clip(grey * ink + (1 - grey) * 40, 0, 255)
        width, height = (int(side) for side in rng.integers(50, 300, 2))
        image = Image.fromarray(pixels.astype(np.uint8)).resize((width, height))
        target = folder / path.parent.name / f"{path.stem}.jpg"
        target.parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(1, 9)) if path.parent.name == "0" else 1
        image.save(target, quality=95, exif=exif)
    return folder


@pytest.fixture(scope="module")
def classifier(network: Any, coloured: Path) -> Any:
    found = ImageClassifier(network).fit(coloured)
    paths = sorted(coloured.glob("*/*"))
    # A flat softmax would prove nothing.
    assert found.score(paths, [path.parent.name for path in paths]) > 0.9
    return found


@pytest.fixture(scope="module")
def folder(classifier: Any, coloured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats; not to be changed."""
    folder = tmp_path_factory.mktemp("exports")
    classifier.export(folder, *FORMATS, photos=coloured)
    return folder


def rows(folder: Path) -> dict[str, Any]:
    return {row["format"]: row for row in json.loads((folder / RECORD).read_text())}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_agrees_with_the_bundle(folder: Path, name: str) -> None:
    row = rows(folder)[name]
    pixels, files = row["parity"]["pixels"], row["parity"]["files"]
    tolerance = EXPORTERS[name].tolerance
    if tolerance is None:
        accuracy = row["parity"]["score"]["difference"]
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
        assert accuracy["value"] > -0.05
    else:
        assert pixels["largest"] <= tolerance
        assert files["changed"] <= 1
    assert pixels["photos"] == files["photos"] == 80
    assert row["faults"] == []
    assert row["bytes"] > 10_000
    assert row["parity"]["milliseconds"] > 0


def test_the_floats_agree_much_better_than_asked(folder: Path) -> None:
    found = rows(folder)
    for name in ("savedmodel", "onnx", "keras", "openvino", "litert"):
        assert found[name]["parity"]["pixels"]["largest"] < 1e-4
        assert found[name]["parity"]["files"]["largest"] < 0.2


def test_what_lies_beside_each_file(folder: Path, classifier: Any) -> None:
    for name, exporter in FORMATS.items():
        file = f"classifier{exporter.suffix}"
        beside = json.loads((folder / f"{file}.json").read_text())
        assert beside["class_names"] == ["0", "1", "2", "3"]
        assert beside["image_size"] == SIZE
        assert beside["trust"] == json.loads(json.dumps(classifier.bundle.manifest["trust"]))
        assert beside["format"] == name
        assert len((folder / f"{file}.py").read_text().splitlines()) < 20
    assert not list(folder.glob(".export-*"))


@pytest.mark.parametrize("name", ["savedmodel", "onnx", "keras", "openvino", "litert"])
def test_the_example_answers_with_the_export_alone(
    folder: Path, coloured: Path, classifier: Any, name: str
) -> None:
    photos = [coloured / "1" / "001.jpg", coloured / "2" / "002.jpg"]
    done = subprocess.run(
        [sys.executable, f"classifier{EXPORTERS[name].suffix}.py", *map(str, photos)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line, photo in zip(done.stdout.splitlines(), photos, strict=True):
        path, label, probability = line.rsplit(" ", 2)
        (said,) = classifier.predictor.predict([photo])
        assert (path, label) == (str(photo), said.label)
        assert float(probability) == pytest.approx(said.probability, abs=0.1)


def test_names_and_thresholds_are_inside(folder: Path) -> None:
    import onnx
    import tensorflow as tf

    model = onnx.load(folder / "classifier.onnx")
    onnx.checker.check_model(model)
    found = {each.key: each.value for each in model.metadata_props}
    assert found["class_names"].split("\n") == ["0", "1", "2", "3"]
    assert json.loads(found["headstart"])["trust"]["thresholds"]
    with zipfile.ZipFile(folder / "classifier.tflite") as archive:
        assert archive.read("labels.txt").decode().split() == ["0", "1", "2", "3"]
    loaded = tf.saved_model.load(str(folder / "classifier-savedmodel" / "1"))
    told = loaded.signatures["metadata"]()
    assert told["class_names"].numpy().tolist() == [b"0", b"1", b"2", b"3"]
    assert json.loads(told["metadata"].numpy())["image_size"] == SIZE


def test_the_saved_model_says_what_predict_says(
    folder: Path, coloured: Path, classifier: Any
) -> None:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder / "classifier-savedmodel" / "1"))
    paths = sorted(coloured.glob("[123]/*"))[:30]
    squares = np.stack([decode_photo(path.read_bytes(), SIZE) for path in paths])
    answer = loaded.signatures["images"](images=tf.constant(squares, tf.float32))
    names = np.array(classifier.bundle.class_names)
    for row, said in enumerate(classifier.predictor.predict(paths)):
        assert answer["label"].numpy()[row].decode() == said.label
        assert bool(answer["is_sure"].numpy()[row]) == said.is_sure
        assert set(names[answer["set"].numpy()[row]]) == set(said.prediction_set)
    from_bytes = loaded.signatures["serving_default"](
        image_bytes=tf.constant([path.read_bytes() for path in paths])
    )
    agreeing = from_bytes["label"].numpy() == answer["label"].numpy()
    assert agreeing.mean() >= 0.95


def run_onnx(target: Path, squares: Any) -> dict[str, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(target)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": squares}), strict=True))


def run_openvino(target: Path, squares: Any) -> dict[str, Any]:
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16, where a processor has it
    found = openvino.Core().compile_model(target / "model.xml", "CPU", exact)([squares])
    return {name: found[name] for name in ("probabilities", "set", "is_sure")}


def run_saved_model(target: Path, squares: Any) -> dict[str, Any]:
    import tensorflow as tf

    images = tf.constant(squares, tf.float32)
    return tf.saved_model.load(str(target / "1")).signatures["images"](images=images)


def find_gap(midst: Any, values: Any = None) -> float:
    """The middle of the widest gap between values, among the middle ones of the first."""
    low, high = np.quantile(midst, (0.3, 0.7))
    values = np.sort((midst if values is None else values).ravel())
    values = values[(low <= values) & (values <= high)]
    widest = int(np.diff(values).argmax())
    assert values[widest + 1] - values[widest] > 1e-3
    return float(values[widest : widest + 2].mean())


@pytest.mark.parametrize(
    ("name", "run"),
    [("onnx", run_onnx), ("openvino", run_openvino), ("savedmodel", run_saved_model)],
)
def test_the_graphs_judge_as_predict_does(
    classifier: Any, network: Any, coloured: Path, tmp_path: Path, name: str, run: Any
) -> None:
    paths = sorted(coloured.glob("*/*"))
    squares = np.stack([decode_photo(path.read_bytes(), SIZE) for path in paths])
    tops = np.sort(classifier.predict_proba(paths), axis=1)
    # Thresholds in the midst of the answers, so that some are sure, and sets have several sizes;
    # in the widest gap there, so that rounding decides nothing.
    told: dict[str, Any] = json.loads(json.dumps(classifier.bundle.manifest))
    told["trust"]["abstentions"]["0.95"]["confidence"] = find_gap(tops[:, -1])
    told["trust"]["thresholds"]["0.9"] = 1 - find_gap(tops[:, -2], tops)
    bundle = replace(classifier.bundle, manifest=told)
    EXPORTERS[name].write(Material(bundle, network), tmp_path / "export")
    found = {key: np.asarray(value) for key, value in run(tmp_path / "export", squares).items()}
    said = list(Predictor(bundle).predict(paths))
    assert {each.is_sure for each in said} == {True, False}
    assert {len(each.prediction_set) for each in said} >= {1, 2}
    assert found["is_sure"].astype(bool).tolist() == [each.is_sure for each in said]
    names = np.array(bundle.class_names)
    for row, each in zip(found["set"].astype(bool), said, strict=True):
        assert set(names[row]) == set(each.prediction_set)
    np.testing.assert_allclose(
        found["probabilities"], [each.probabilities for each in said], atol=1e-4
    )


def test_without_thresholds_the_graph_says_nothing_of_them(classifier: Any, tmp_path: Path) -> None:
    bundle, squares = classifier.bundle, np.zeros((2, SIZE, SIZE, 3), np.uint8)
    told: dict[str, Any] = json.loads(json.dumps(bundle.manifest))
    told["trust"]["abstentions"]["0.95"]["confidence"] = None
    for manifest, outputs in (
        ({**told, "trust": None}, ["probabilities"]),
        (told, ["probabilities", "set", "is_sure"]),
    ):
        changed = Material(replace(bundle, manifest=manifest))
        (tmp_path / "a.onnx").write_bytes(changed.graph_of_any_size)
        found = run_onnx(tmp_path / "a.onnx", squares)
        assert list(found) == outputs
    assert found["is_sure"].tolist() == [False, False]  # no confidence is high enough


def test_what_formats_share_is_computed_once(
    classifier: Any, coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: dict[str, int] = {"graphs": 0, "photos": 0}
    exporting = Exporting(classifier.bundle, tmp_path, photos=coloured)
    run, make = exporting._original.run, onnx_format.make_graph

    def count_photos(squares: Any) -> Any:
        counts["photos"] += len(squares)
        return run(squares)

    def count_graphs(material: Any) -> bytes:
        counts["graphs"] += 1
        return make(material)

    monkeypatch.setattr(exporting._original, "run", count_photos)
    monkeypatch.setattr(onnx_format, "make_graph", count_graphs)
    first, second = (exporting.write(name) for name in ("onnx", "openvino"))
    assert first.parity.pixels.photos == second.parity.pixels.photos == 80
    timed = 21  # of each format, beside it
    assert counts == {"graphs": 1, "photos": 80 + 2 * timed}


def test_plain_keras_opens_the_file(folder: Path) -> None:
    code = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model('classifier.keras')\n"
        "rows = model.predict(np.zeros((2, 90, 61, 3)), verbose=0)\n"
        "assert rows.shape == (2, 4) and abs(rows.sum() - 2) < 1e-4\n"
        "assert not any(name.startswith('headstart') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)


# ---- what is refused


class Twin:
    """An export that does something else to pixels or probabilities."""

    def __init__(
        self, runner: Any, *, reverse: bool = False, squash: bool = False, heat: float = 1
    ):
        self.runner, self.reverse, self.squash, self.heat = runner, reverse, squash, heat

    def run_squares(self, squares: Any) -> Any:
        rows = self.runner.run_squares(squares[..., ::-1] if self.reverse else squares)
        heated = rows**self.heat
        return heated / heated.sum(1, keepdims=True)

    def run_files(self, contents: Any) -> Any:
        if not self.squash:
            return list(self.run_squares(np.stack([decode_photo(c, SIZE) for c in contents])))
        # The usual mistake: the whole photo squashed, without a filter.
        images = [Image.open(io.BytesIO(c)).convert("RGB") for c in contents]
        resized = [image.resize((SIZE, SIZE), Image.Resampling.NEAREST) for image in images]
        return list(self.run_squares(np.stack([np.asarray(each) for each in resized])))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"reverse": True}, "from identical pixels a probability differs"),
        ({"squash": True}, "photos get another class"),
        ({"heat": 1.3}, "from identical pixels a probability differs"),
    ],
    ids=["colour order", "resize", "temperature"],
)
@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_twins_are_refused(
    folder: Path, classifier: Any, coloured: Path, name: str, wrong: dict[str, Any], says: str
) -> None:
    exporter = get_exporter(name)
    runner = exporter.open(folder / f"classifier{exporter.suffix}")
    contents = [path.read_bytes() for path in sorted(coloured.glob("*/*"))]
    trial = make_trial(contents, np.full((len(contents), 4), np.nan), SIZE)
    original = Original(classifier.bundle, trial)
    right = measure_parity(original, Twin(runner))
    assert find_faults(right, exporter.tolerance) == []
    found = measure_parity(original, Twin(runner, **wrong))
    assert says in "; ".join(find_faults(found, exporter.tolerance))


def test_whole_numbers_that_lose_too_much_are_refused() -> None:
    gap = Gap(100, 0.3, 0.1, 30)
    faulty = Parity(gap, gap, None, 1.0, 1.0)
    assert "30 of 100 photos get another class" in find_faults(faulty, None)[0]
    assert find_faults(replace(faulty, pixels=replace(gap, changed=2)), None) == []
    unread = replace(faulty, files=Gap(0, 0, 0, 0, 100), pixels=replace(gap, changed=0))
    assert find_faults(unread, None) == ["it reads none of the files"]


def test_a_faulty_export_leaves_nothing(
    classifier: Any, network: Any, coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"photos": coloured, "known": network}
    monkeypatch.setitem(EXPORTERS, "onnx", replace(EXPORTERS["onnx"], tolerance=-1.0))
    with pytest.raises(ExportError, match="does not predict what the bundle does"):
        Exporting(classifier.bundle, tmp_path / "a", **settings).write("onnx")
    assert list((tmp_path / "a").iterdir()) == []
    kept = Exporting(classifier.bundle, tmp_path / "a", keep_faulty=True, **settings).write("onnx")
    assert kept.path.is_file()
    assert kept.faults


def test_an_export_is_replaced_only_by_force(
    classifier: Any, coloured: Path, tmp_path: Path
) -> None:
    for name in ("onnx", "savedmodel"):
        (first,) = classifier.export(tmp_path / "a", name, photos=coloured)
        with pytest.raises(OutputExistsError, match="--force"):
            classifier.export(tmp_path / "a", name, photos=coloured)
        (second,) = classifier.export(tmp_path / "a", name, photos=coloured, force=True)
        assert first.path == second.path
        assert second.path.exists()
    assert len(rows(tmp_path / "a")) == 2


def test_without_the_network_only_its_graph_can_be_exported(
    classifier: Any, coloured: Path, tmp_path: Path
) -> None:
    bundle = classifier.save(tmp_path / "a.headstart")
    exporting = Exporting(bundle, photos=coloured)
    with pytest.raises(ExportError, match="Formats that need no Keras model: onnx, openvino"):
        exporting.write("keras")
    assert exporting.write("onnx").path == tmp_path / "a-exports" / "a.onnx"


def test_without_photos_it_says_what_is_missing(trained_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copy(trained_bundle, tmp_path / "a.headstart")
    with pytest.raises(ExportError, match="give --photos FOLDER"):
        Exporting(bundle)
    with pytest.raises(ExportError, match="Did you mean onnx"):
        get_exporter("onx")


# ---- the resize, the card, the command


@pytest.mark.parametrize(
    "shape", [(300, 200), (64, 64), (54, 60), (48, 48), (40, 30), (701, 1000), (49, 48)]
)
def test_the_resize_is_pillows(shape: tuple[int, int]) -> None:
    import tensorflow as tf

    from headstart.export.preparation import prepare_images

    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 12, 3)).astype(np.uint8))
    photo = np.asarray(small.resize(shape[::-1], Image.Resampling.BICUBIC))
    found = np.asarray(prepare_images(tf.constant(photo[None], tf.float32), SIZE))[0]
    expected = square_image(Image.fromarray(photo), SIZE).astype(float)
    assert found.shape == (SIZE, SIZE, 3)
    assert abs(found - expected).max() <= 3
    assert abs(found - expected).mean() < 0.5


def test_the_card_survives_odd_names(classifier: Any) -> None:
    manifest = json.loads(json.dumps(classifier.bundle.manifest).replace('"0"', '"a|b"'))
    card = write_card('x: "y"', manifest, [])
    assert "a\\|b |" in card
    head = card.split("---")[1]
    assert 'name: "x: \\"y\\""' in head
    assert "pipeline_tag: image-classification" in head


def test_the_card_says_what_was_measured(folder: Path, classifier: Any) -> None:
    card = (folder / CARD).read_text()
    assert "Not known: no photos were set aside" not in card
    assert f"{classifier.evaluation.accuracy.value:.1%}" in card
    for exporter in FORMATS.values():
        assert f"| classifier{exporter.suffix} |" in card


def test_the_command(trained: Any, digits_folder: Path, tmp_path: Path) -> None:
    bundle = trained.save(tmp_path / "digits.headstart")
    trained.save_run(tmp_path / "digits.run")
    run = CliRunner().invoke
    done = run(app, ["export", str(bundle), "-f", "onnx", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["exports"][0]["file"] == "digits.onnx"
    assert told["exports"][0]["parity"]["pixels"]["photos"] == trained.evaluation.photos
    assert (tmp_path / "digits-exports" / "digits.onnx").is_file()
    table = run(app, ["export", str(bundle), "-f", "onnx", "-f", "small", "--force"])
    assert "digits.onnx" in table.output
    small = rows(tmp_path / "digits-exports")["small"]
    assert small["bytes"] < 50_000
    assert small["parity"]["pixels"]["largest"] == small["parity"]["files"]["largest"] == 0
    photo = digits_folder / "2" / "002.png"
    example = [sys.executable, "digits-small.headstart.py", str(photo)]
    done = subprocess.run(
        example, cwd=tmp_path / "digits-exports", capture_output=True, text=True, check=True
    )
    (said,) = trained.predictor.predict([photo])
    assert done.stdout == f"{photo} {said.label} {said.probability:.3f}\n"
    assert run(app, ["export", str(bundle)]).exit_code == 2
    assert "Did you mean" in str(run(app, ["export", str(bundle), "-f", "onx"]).exception)


def test_all_formats_of_a_network_that_is_not_here(
    classifier: Any, coloured: Path, tmp_path: Path
) -> None:
    bundle = classifier.save(tmp_path / "a.headstart")
    done = CliRunner().invoke(
        app, ["export", str(bundle), "--all", "--photos", str(coloured), "--json"]
    )
    told = json.loads(done.stdout)
    assert {row["format"] for row in told["exports"]} == {"onnx", "openvino"}
    assert set(told["refused"]) == set(EXPORTERS) - {"onnx", "openvino"}
    assert (
        headstart.__version__
        in json.loads((tmp_path / "a-exports/a.onnx.json").read_text())["made_by"]
    )


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_read_and_applied_in_the_graph(orientation: int, order: str) -> None:
    import tensorflow as tf

    from headstart.export.orientation import read_orientation, turn_upright

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)).resize((64, 64))
    exif = Image.Exif()
    exif.endian = "<" if order == "little" else ">"
    exif[0x0112] = orientation
    exif[0x010F] = "A maker before it, and others behind"
    exif[0x0131] = "program"
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, exif=exif)
    data = stream.getvalue()
    found = read_orientation(tf.constant(data))
    assert int(found) == orientation
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    turned = turn_upright(tf.constant(pixels), found).numpy()
    expected = decode_photo(data, 64)  # the product's own decoder
    assert np.array_equal(turned, expected)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"\xff\xd8" * 9,
        b"x" * 99,
    ],
)
def test_broken_exif_is_upright(data: bytes) -> None:
    import tensorflow as tf

    from headstart.export.orientation import read_orientation

    assert int(read_orientation(tf.constant(data))) == 1
