"""Several labels and numbers, from a table to a bundle, its answers and its figures."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DRAWN
from typer.testing import CliRunner

from headstart import ImageClassifier, fine_tune, load
from headstart.bundle import load_bundle
from headstart.cli.commands import app
from headstart.data.table import scan_source
from headstart.errors import BundleError, HeadstartError
from headstart.evaluation.labels import LabelsEvaluation
from headstart.evaluation.values import ValueEvaluation
from headstart.suggestions import suggest_photos
from headstart.task import REGRESSION


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_labels_are_learnt_and_measured(fitted_labels: ImageClassifier) -> None:
    found = fitted_labels.evaluation
    assert isinstance(found, LabelsEvaluation)
    assert [row.name for row in found.per_label] == ["blue", "red"]
    assert found.mean_average_precision.value > 0.9
    assert found.mean_average_precision.value > found.baseline.mean_average_precision + 0.2


def test_predict_gives_the_labels_that_reach_their_threshold(
    fitted_labels: ImageClassifier, drawn: Path
) -> None:
    photos = [drawn / f"{number}.png" for number in range(20)]
    rows = fitted_labels.predict_proba(photos)
    thresholds = fitted_labels.bundle.manifest["trust"]["thresholds"]
    assert thresholds != [0.5, 0.5]
    expected = [
        tuple(n for n, p, t in zip(("blue", "red"), row, thresholds, strict=True) if p >= t)
        for row in rows
    ]
    assert fitted_labels.predict(photos) == expected
    assert {len(each) for each in expected} == {0, 1, 2}
    assert rows.sum(1).max() > 1.5  # each by itself, no shares of one
    with (drawn / "labels.csv").open() as file:
        truth = [row["label"] for row in csv.DictReader(file)][:20]
    assert fitted_labels.score(photos, truth) > 0.8
    assert fitted_labels.score(photos, [t.split(";") if t else [] for t in truth]) > 0.8


def test_numbers_are_learnt_in_the_users_unit(fitted_sizes: ImageClassifier, drawn: Path) -> None:
    found = fitted_sizes.evaluation
    assert isinstance(found, ValueEvaluation)
    assert found.r2.value > 0.8
    assert found.mae.value < found.baseline.median_mae / 2
    assert [problem.reason for problem in fitted_sizes.problems] == ["'wide' is not a number"]
    photos = [drawn / f"size{number}.png" for number in range(30)]
    with (drawn / "sizes.csv").open() as file:
        truth = np.array([float(row["label"]) for row in list(csv.DictReader(file))[:30]])
    values = fitted_sizes.predict(photos)
    assert values.shape == (30,)
    assert abs(values - truth).mean() < 0.5
    assert fitted_sizes.score(photos, truth) > 0.8
    ends = fitted_sizes.predict_intervals(photos, coverage=0.8)
    assert ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean() >= 0.7
    assert np.allclose(ends.mean(1), values)
    errors = [answer.error for answer in fitted_sizes.mistakes]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("task", ["labels", "sizes"])
def test_a_saved_bundle_answers_and_measures_alike(
    task: str, drawn: Path, request: pytest.FixtureRequest
) -> None:
    fitted: ImageClassifier = request.getfixturevalue(f"fitted_{task}")
    again = load(drawn / f"{task}.headstart")
    photos = [drawn / "1.png", drawn / "2.png"]
    assert np.array_equal(again.predict(photos), fitted.predict(photos))
    assert again.task == fitted.task
    assert again.evaluation == fitted.evaluation
    assert again.bundle.manifest["format"] == 2  # an earlier Headstart must refuse it
    told = again.evaluate(drawn / f"{task}.csv")
    assert type(told) is type(fitted.evaluation)
    assert told.photos == DRAWN
    assert "were trained on" in again.warnings[0]


@pytest.mark.parametrize("task", ["labels", "sizes"])
def test_the_keras_model_says_the_same(
    task: str, drawn: Path, request: pytest.FixtureRequest
) -> None:
    from headstart.data.decode import decode_photo

    fitted: ImageClassifier = request.getfixturevalue(f"fitted_{task}")
    size = fitted.bundle.image_size
    pixels = np.stack([decode_photo((drawn / f"{n}.png").read_bytes(), size) for n in range(4)])
    found = fitted.model.predict(pixels.astype(np.float32), verbose=0)
    expected = fitted.predictor.compute_rows(pixels)[:, : found.shape[1]]
    np.testing.assert_allclose(found, expected, atol=2e-3, rtol=2e-3)


def test_the_commands(drawn: Path, cache: Path, tmp_path: Path) -> None:
    target = tmp_path / "labels.headstart"
    told = json.loads(
        run("train", drawn / "labels.csv", "--task", "multilabel", "-o", target, "--json")
    )
    assert told["task"] == "multilabel"
    assert {"macro_f1", "micro_f1", "mean_average_precision"} <= told["evaluation"].keys()
    (tmp_path / "bad.png").write_bytes(b"no photo")
    photos = [drawn / "0.png", tmp_path / "bad.png"]
    rows = list(csv.DictReader(io.StringIO(run("predict", target, *photos, "--csv"))))
    assert list(rows[0]) == ["path", "labels", "probabilities", "problem"]
    assert rows[1]["problem"]
    first, second = map(json.loads, run("predict", target, *photos, "--json").splitlines())
    assert list(first) == ["path", "labels", "probabilities"]
    assert ";".join(first["labels"]) == rows[0]["labels"]
    assert list(second) == ["path", "problem"]
    assert "average precision" in run("evaluate", target, drawn / "labels.csv")


def test_the_commands_for_numbers(fitted_sizes: ImageClassifier, drawn: Path) -> None:
    bundle, photo = drawn / "sizes.headstart", drawn / "size0.png"
    (row,) = csv.DictReader(io.StringIO(run("predict", bundle, photo, "--csv")))
    assert list(row) == ["path", "value", "low", "high", "problem"]
    assert float(row["low"]) < float(row["value"]) < float(row["high"])
    narrow = json.loads(run("predict", bundle, photo, "--json", "--coverage", "0.8"))
    assert narrow["interval"][1] - narrow["interval"][0] < float(row["high"]) - float(row["low"])
    assert "mean absolute error" in run("evaluate", bundle, drawn / "sizes.csv")
    told = json.loads(run("evaluate", bundle, drawn / "sizes.csv", "--json"))
    assert told["evaluation"]["mae"]["value"] < 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"recipe": "search"}, "recipe search is not made for the task multilabel"),
        ({"budget_seconds": 60}, "for the task multilabel the head takes little more"),
        ({"backbone": "auto"}, "choice of a backbone"),
        ({"keep_thumbnails": True}, "thumbnails"),
        ({"task": "ranking"}, "is not a task"),
    ],
)
def test_what_a_task_has_not_is_refused_by_name(
    settings: dict[str, Any], words: str, drawn: Path
) -> None:
    with pytest.raises(HeadstartError, match=words):
        ImageClassifier(**{"task": "multilabel", **settings}).fit(drawn / "labels.csv")


def test_what_needs_classes_refuses_numbers(fitted_sizes: ImageClassifier, drawn: Path) -> None:
    from headstart.explain import Explainer
    from headstart.predictor import Predictor
    from headstart.small import expand

    class Dataset:
        def as_numpy_iterator(self) -> Any:
            raise AssertionError("nothing is read")

    bundle = drawn / "sizes.headstart"
    numbers = scan_source(drawn / "sizes.csv", task=REGRESSION)
    for ask in (
        lambda: Explainer(bundle),
        lambda: suggest_photos(drawn, bundle),
        lambda: fitted_sizes.predict_proba([drawn / "0.png"]),
        lambda: fitted_sizes.predict_sets([drawn / "0.png"]),
        lambda: fitted_sizes.save(drawn / "small.headstart", small=True),
        lambda: Predictor(bundle, precision=0.99),
        lambda: expand(fitted_sizes.bundle),
        lambda: fine_tune("efficientnet-lite0", numbers),
        lambda: ImageClassifier(task="regression").fit(Dataset()),
    ):
        with pytest.raises(HeadstartError, match="task regression"):
            ask()


def test_commands_for_classes_refuse_numbers(fitted_sizes: ImageClassifier, drawn: Path) -> None:
    result = CliRunner().invoke(app, ["compare", str(drawn / "sizes.headstart")])
    assert isinstance(result.exception, HeadstartError)
    assert "task regression; accepted: classification" in str(result.exception)


def test_a_bundle_without_thresholds_or_of_an_unknown_task_is_refused(
    fitted_labels: ImageClassifier, tmp_path: Path
) -> None:
    from headstart.bundle import save_bundle

    for change, words in (
        ({"trust": None}, "no valid 'trust'"),
        ({"trust": {"thresholds": [0.5]}}, "no valid 'trust'"),
        ({"trust": {"thresholds": [0.5, 7]}}, "no valid 'trust'"),
        ({"evaluation": {"photos": 3}}, "no valid 'evaluation'"),
        ({"class_names": []}, "no valid 'class_names'"),
    ):
        path = tmp_path / "changed.headstart"
        save_bundle(
            path, fitted_labels.bundle.manifest | change, fitted_labels.bundle.members, force=True
        )
        with pytest.raises(BundleError, match=words):
            load_bundle(path)


def test_predict_loads_no_tensorflow(fitted_labels: ImageClassifier, drawn: Path) -> None:
    code = (
        "import sys; from headstart.cli.commands import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'tensorflow', 'scipy', 'keras'} & sys.modules.keys()"
    )
    arguments = ["predict", str(drawn / "labels.headstart"), str(drawn / "0.png")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def test_the_example_of_the_documentation(
    drawn: Path,
    fitted_labels: ImageClassifier,
    fitted_sizes: ImageClassifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (Path(__file__).parent.parent / "docs" / "tasks.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- example -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found
    monkeypatch.chdir(drawn)
    exec(found[1], {})


def test_scikit_learn_knows_what_is_predicted() -> None:
    from sklearn.base import is_classifier, is_regressor

    assert is_regressor(ImageClassifier(task="regression"))
    assert is_classifier(ImageClassifier(task="multilabel"))
