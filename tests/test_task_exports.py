"""Exports of several labels and of numbers: each says what the bundle says, by its thresholds."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DRAWN, build_network
from typer.testing import CliRunner

from headstart import ImageClassifier
from headstart.cli.commands import app
from headstart.data.decode import decode_photo
from headstart.export import EXPORTERS
from headstart.export.decisions import DECISIONS
from headstart.export.parity import Gap, Parity, find_faults, measure_parity
from headstart.exports import CARD, RECORD, Exporting
from headstart.task import MULTILABEL, REGRESSION

SIZE = 40  # not that of the photos, which would be taken as they are
TASKS = {"labels": "multilabel", "sizes": "regression"}
# Between them all formats but the small one, which has networks of the catalogue only.
_BOTH = ("savedmodel", "onnx", "litert-int8")
FORMATS = {"labels": (*_BOTH, "openvino", "litert"), "sizes": (*_BOTH, "keras", "litert-float16")}
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", params=TASKS)
def exported(
    request: pytest.FixtureRequest,
    drawn: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[ImageClassifier, Path, list[Path]]:
    """A classifier, the folder of all its exports, and its photos; not to be changed."""
    name = str(request.param)
    table = drawn / f"{name}.csv"
    fitted = ImageClassifier(build_network(SIZE), task=TASKS[name]).fit(table)
    folder = tmp_path_factory.mktemp(name)
    fitted.export(folder, *FORMATS[name], photos=table)
    prefix = "" if name == "labels" else "size"
    return fitted, folder, [drawn / f"{prefix}{number}.png" for number in range(DRAWN)]


def ask(fitted: ImageClassifier, photos: list[Path]) -> dict[str, Any]:
    """What predict says, by the names that graphs use."""
    said = list(fitted.predictor.predict(photos))
    if fitted.bundle.task is REGRESSION:
        found = {"values": [[each.value] for each in said]}
        low, high = ([[each.interval[end]] for each in said] for end in (0, 1))  # type: ignore[index]
        return {**found, "low": low, "high": high}
    names = fitted.bundle.class_names
    return {
        "probabilities": [each.probabilities for each in said],
        "labels": [[name in (each.labels or ()) for name in names] for each in said],
        "label": [each.label for each in said],
    }


def test_every_format_says_what_the_bundle_says(exported: Any) -> None:
    fitted, folder, _ = exported
    rows = {row["format"]: row for row in json.loads((folder / RECORD).read_text())}
    assert rows.keys() == set(FORMATS["labels" if fitted.task == "multilabel" else "sizes"])
    for name, row in rows.items():
        pixels, files = row["parity"]["pixels"], row["parity"]["files"]
        assert row["faults"] == []
        assert pixels["photos"] == files["photos"] == DRAWN
        tolerance = EXPORTERS[name].tolerance
        if tolerance is None:
            # What the head says is no constant, so that there is something to lose.
            assert row["parity"]["measure"] == DECISIONS[fitted.task].measure
            assert row["parity"]["score"]["difference"]["value"] > -0.05
        else:
            assert pixels["largest"] <= tolerance
            assert pixels["changed"] == 0
    beside = json.loads((folder / "classifier.onnx.json").read_text())
    assert beside["task"] == fitted.task
    assert beside["trust"] == json.loads(json.dumps(fitted.bundle.manifest["trust"]))


def run_onnx(target: Path, squares: Any) -> dict[str, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(target)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": squares}), strict=True))


def run_openvino(target: Path, squares: Any) -> dict[str, Any]:
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(target / "model.xml", "CPU", exact)
    found = compiled([squares])
    # An output may have several names; those that the graph was written with are among them.
    known = {"probabilities", "labels", "values", "low", "high"}
    names = [(output.names & known).pop() for output in compiled.outputs]
    return {name: found[output] for name, output in zip(names, compiled.outputs, strict=True)}


def run_saved_model(target: Path, squares: Any) -> dict[str, Any]:
    import tensorflow as tf

    images = tf.constant(squares, tf.float32)
    found = tf.saved_model.load(str(target / "1")).signatures["images"](images=images)
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize(
    ("name", "run"),
    [("onnx", run_onnx), ("openvino", run_openvino), ("savedmodel", run_saved_model)],
)
def test_the_graphs_apply_thresholds_as_predict_does(exported: Any, name: str, run: Any) -> None:
    fitted, folder, photos = exported
    if name not in FORMATS["labels" if fitted.task == "multilabel" else "sizes"]:
        pytest.skip("written from the ONNX graph: once is enough")
    assert fitted.bundle.image_size == SIZE
    squares = np.stack([decode_photo(path.read_bytes(), SIZE) for path in photos])
    found, expected = (
        run(folder / f"classifier{EXPORTERS[name].suffix}", squares),
        ask(fitted, photos),
    )
    assert found.keys() - {"label"} == expected.keys() - {"label"}
    for key in found:
        if key == "label":
            assert [text.decode() for text in found[key]] == expected[key]
            assert {text.count(";") for text in expected[key]} == {0, 1}
            assert "" in expected[key]
        elif key == "labels":
            assert np.asarray(found[key], bool).tolist() == expected[key]
        else:
            np.testing.assert_allclose(found[key], expected[key], atol=1e-4, rtol=1e-4)


def test_the_example_says_the_same(exported: Any) -> None:
    fitted, folder, photos = exported
    name = FORMATS["labels" if fitted.task == "multilabel" else "sizes"][-1]
    program = folder / f"classifier{EXPORTERS[name].suffix}.py"
    assert len(program.read_text().splitlines()) < 20
    done = subprocess.run(
        [sys.executable, program.name, *map(str, photos[:6])],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = fitted.predictor.predict(photos[:6])
    for line, each in zip(done.stdout.splitlines(), said, strict=True):
        path, *told = line.split(" ")
        assert path == str(each.item)
        if each.labels is not None:
            assert tuple(told) == each.labels
        else:
            assert float(told[0]) == pytest.approx(each.value, rel=0.02)
            half = fitted.bundle.manifest["trust"]["half_widths"]["0.9"]
            assert " ".join(told[1:]) == f"plus or minus {half}"


def test_the_card_says_what_was_measured(exported: Any) -> None:
    fitted, folder, _ = exported
    card = (folder / CARD).read_text()
    found = fitted.evaluation
    if fitted.bundle.task is MULTILABEL:
        assert f"mean average precision {found.mean_average_precision.value:.1%}" in card
        assert f"always the most frequent set: {found.baseline.subset_accuracy:.1%}" in card
        assert "| red | " in card
        assert f"{{type: f1, value: {found.macro_f1.value:.4f}}}" in card
    else:
        assert f"Mean absolute error {found.mae.value:.4g}" in card
        assert f"{found.baseline.median_mae:.4g}" in card
        assert f"intervals hold the truth of {found.coverage.value:.1%}" in card
        assert "pipeline_tag" not in card
    assert "accuracy" not in card.split("## How it was made")[0].lower()


class Twin:
    """An export whose colours are in the wrong order, or whose answers are shifted."""

    def __init__(self, runner: Any, *, reverse: bool = False, shift: float = 0.0) -> None:
        self.runner, self.reverse, self.shift = runner, reverse, shift

    def run_squares(self, squares: Any) -> Any:
        return self.runner.run_squares(squares[..., :: -1 if self.reverse else 1]) + self.shift

    def run_files(self, contents: Any) -> Any:
        return list(self.run_squares(np.stack([decode_photo(c, SIZE) for c in contents])))


def test_twins_are_refused(exported: Any, drawn: Path, tmp_path: Path) -> None:
    fitted, folder, _ = exported
    table = drawn / ("labels.csv" if fitted.bundle.task is MULTILABEL else "sizes.csv")
    exporting = Exporting(fitted.bundle, tmp_path, photos=table)
    exporter = EXPORTERS["onnx"]
    runner = exporter.open(folder / "classifier.onnx")
    assert find_faults(measure_parity(exporting._original, Twin(runner)), exporter.tolerance) == []
    for mistake in ({"reverse": True}, {"shift": 0.7}):
        twin = measure_parity(exporting._original, Twin(runner, **mistake), again=True)
        found = "; ".join(find_faults(twin, exporter.tolerance))
        assert f"from identical pixels {DECISIONS[fitted.task].each} differs" in found
    assert f"photos get {DECISIONS[fitted.task].another}" in found
    # By whole numbers: nothing but the score counts.
    lost = "; ".join(find_faults(twin, None))
    assert f"the {DECISIONS[fitted.task].measure} falls by" in lost


def test_numbers_are_compared_by_their_spread() -> None:
    gap = Gap(100, 2e-3, 1e-3, 0)
    faulty = Parity(gap, gap, None, 1.0, 1.0, REGRESSION)
    (found,) = find_faults(faulty, 1e-3)
    assert "a number, as a share of the spread of all answers, differs by 0.002" in found
    assert find_faults(replace(faulty, pixels=replace(gap, largest=5e-4)), 1e-3) == []


def test_the_command(exported: Any, drawn: Path, tmp_path: Path) -> None:
    fitted, _, _ = exported
    bundle = fitted.save(tmp_path / "a.headstart")
    fitted.save_run(tmp_path / "a.run")
    # By the test photos of the run beside the bundle.
    done = CliRunner().invoke(app, ["export", str(bundle), "-f", "onnx", "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["exports"]
    assert row["parity"]["pixels"]["photos"] == fitted.evaluation.photos
