"""Fine-tuning for several labels and for numbers: losses, units, choices, and what comes of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_network, encode

from headstart import ImageClassifier, load
from headstart.data.scan import Sample
from headstart.errors import HeadstartError
from headstart.exports import Exporting
from headstart.recipe import choose_recipe
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION
from headstart.training.interpolate import choose_share
from headstart.training.linear import fit_head
from headstart.training.objective import OBJECTIVES, Targets, encode_classes, encode_samples

SIZE, PHOTOS = 40, 160


# ---- objectives


def make_targets(task: Any, values: Any) -> Targets:
    found = np.asarray(values, np.float32)
    return Targets(found, np.ones(len(found)), task)


@pytest.mark.parametrize("task", [CLASSIFICATION, MULTILABEL, REGRESSION], ids=lambda t: t.name)
def test_losses_and_scores_are_the_same_in_a_graph(task: Any) -> None:
    rng = np.random.default_rng(0)
    objective, outputs = OBJECTIVES[task.name], rng.normal(size=(20, 3)).astype(np.float32)
    targets = {
        CLASSIFICATION: np.eye(3, dtype=np.float32)[rng.integers(3, size=20)],
        MULTILABEL: rng.integers(2, size=(20, 3)).astype(np.float32),
        REGRESSION: rng.normal(size=(20, 3)).astype(np.float32),
    }[task]
    for plain, graph in (
        (objective.losses, objective.losses_in_graph),
        (objective.scores, objective.scores_in_graph),
    ):
        np.testing.assert_allclose(graph(targets, outputs), plain(targets, outputs), rtol=1e-5)


def test_numbers_are_trained_in_units_of_their_spread() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5))
    numbers = 2000 + 30 * features[:, :1] + rng.normal(size=(60, 1))
    samples = [Sample(Path(), repr(float(value)), str(n)) for n, (value,) in enumerate(numbers)]
    targets = encode_samples(samples, ("value",), REGRESSION, 40)
    assert abs(float(targets.values[:40].mean())) < 1e-6
    assert float(targets.values[:40].std()) == pytest.approx(1, rel=1e-5)
    head = fit_head(features, numbers, (), REGRESSION, 0.1)
    inner = targets.enter(head)
    expected = head.predict(features)
    found = features.astype(np.float32) @ inner.kernel + inner.bias
    np.testing.assert_allclose(targets.leave_rows(found), expected, rtol=1e-6)
    kernel, bias = targets.leave(inner.kernel, inner.bias)
    np.testing.assert_allclose(features.astype(np.float32) @ kernel + bias, expected, rtol=1e-6)
    # Solved in that unit it is the same head.
    solved = targets.solve(features, 0.1)
    np.testing.assert_allclose(targets.leave(solved.kernel, solved.bias)[0], head.kernel, rtol=1e-3)


@pytest.mark.parametrize("task", [MULTILABEL, REGRESSION], ids=lambda t: t.name)
def test_what_is_not_likely_better_is_not_taken(task: Any) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(2, size=(200, 4)) if task is MULTILABEL else rng.normal(size=(200, 1))
    targets, groups = make_targets(task, values), [str(row) for row in range(200)]
    signal = 3.0 * (2 * values - 1) if task is MULTILABEL else values
    noise = rng.normal(size=values.shape)
    good, poor = signal + 0.3 * noise, signal + (4.0 if task is MULTILABEL else 0.9) * noise
    share, gain = choose_share([poor, good], targets, groups, 0, (0.0, 1.0))
    assert share == 1.0
    assert gain.low <= gain.tuned - gain.probe <= gain.high
    assert OBJECTIVES[task.name].measure in str(gain)
    assert choose_share([good, poor], targets, groups, 0, (0.0, 1.0))[0] == 0.0
    if task is MULTILABEL:  # ten times as sure is no gain: the temperature takes it away
        assert choose_share([poor, 3 * poor], targets, groups, 0, (0.0, 1.0))[0] == 0.0
        three = 3 * targets.fit_temperature(poor, math.inf)
        assert targets.fit_temperature(3 * poor, math.inf) == pytest.approx(three, rel=0.06)


def test_classes_are_as_before() -> None:
    labels = np.array([2, 0, 1])
    targets = encode_classes(labels, 3, [1.0, 2.0, 3.0])
    assert targets.classes.tolist() == labels.tolist()
    assert targets.weights.tolist() == [3.0, 1.0, 2.0]
    assert targets.measure(np.array([[0.0, np.inf, 0], [0, 0, 0], [0, 0, 0]])) == (np.inf, 0.0)


# ---- trainings


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos whose labels and numbers a random network shows badly: two kinds of stripes."""
    folder = tmp_path_factory.mktemp("places")
    rng = np.random.default_rng(0)
    labels, sizes = ["path,label"], ["path,label"]
    for number in range(PHOTOS):
        pixels = rng.integers(40, 200, (48, 48, 3)).astype(float)
        has = rng.random(2) < 0.5
        stripes = 25 * ((np.arange(48) + rng.integers(8)) // 4 % 2 * 2 - 1)
        pixels += has[0] * stripes[:, None, None] + has[1] * np.roll(stripes, 3)[None, :, None]
        (folder / f"{number}.png").write_bytes(encode(np.clip(pixels, 0, 255)))
        names = [name for name, is_there in zip(("rows", "columns"), has, strict=True) if is_there]
        labels.append(f"{number}.png,{';'.join(names)}")
        sizes.append(f"{number}.png,{1000 + 50 * has[0] + 20 * has[1] + rng.normal():.2f}")
    (folder / "labels.csv").write_text("\n".join(labels))
    (folder / "sizes.csv").write_text("\n".join(sizes))
    return folder


SETTINGS: dict[str, Any] = {
    "unfreeze": 2,
    "epochs": 8,
    "holdout": 0.34,
    "learning_rate": 3e-3,
    "views": 1,
    "mixup": 0.0,
    "dropout": 0.0,
    "batch_size": 16,
}


@pytest.fixture(scope="module", params=["labels", "sizes"])
def tuned(request: pytest.FixtureRequest, places: Path) -> tuple[Any, Any, Path]:
    """A tuned classifier, the probe that it started from, and its table; not to be changed."""
    table = places / f"{request.param}.csv"
    task = "multilabel" if request.param == "labels" else "regression"
    recipe = choose_recipe("tune", **SETTINGS)
    probe = ImageClassifier(build_network(SIZE), task=task).fit(table)
    found = ImageClassifier(build_network(SIZE), recipe=recipe, task=task).fit(table)
    return found, probe, table


def test_tuning_gains_and_the_bundle_says_what_was_measured(
    tuned: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    found, probe, table = tuned
    assert found.tuning is not None
    assert found.tuning.share > 0
    assert found.tuning.gain.tuned > found.tuning.gain.probe
    assert OBJECTIVES[found.task].measure in found.tuning.says
    photos = [table.parent / f"{number}.png" for number in range(PHOTOS)]
    if found.bundle.task is MULTILABEL:
        assert found.evaluation.macro_f1.value >= probe.evaluation.macro_f1.value
        assert found.evaluation.mean_average_precision.value > 0.9
        assert found.bundle.manifest["recipe"]["fine_tune"]["label_smoothing"] == 0.1
    else:
        assert found.evaluation.mae.value < probe.evaluation.mae.value
        assert found.evaluation.mae.value < 15  # in the unit of the table
        assert 1 < found.bundle.manifest["trust"]["half_widths"]["0.9"] < 50
        assert found.evaluation.coverage.value > 0.7
        assert found.bundle.manifest["recipe"]["fine_tune"]["label_smoothing"] == 0
    # The answers for the test photos are the bundle's own.
    again = load(found.save(tmp_path / "tuned.headstart"))
    said = {each.sample.path: each.answer for each in found.mistakes}
    tested = [path for path in photos if path in said]
    for path, each in zip(tested, again.predictor.predict(tested), strict=True):
        expected = each.label if each.value is None else f"{each.value:.6g}"
        assert said[path] == expected
    squares = np.stack([np.asarray(each) for each in _read(photos[:5])])
    rows = again.predictor.compute_rows(squares)
    np.testing.assert_allclose(
        found.model.predict(squares.astype(np.float32), verbose=0), rows, rtol=1e-3, atol=1e-3
    )


def _read(paths: list[Path]) -> list[Any]:
    from headstart.data.decode import decode_photo

    return [decode_photo(path.read_bytes(), SIZE) for path in paths]


def test_a_tuned_bundle_is_exported_and_reported(
    tuned: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    from headstart import write_report

    found, _, table = tuned
    bundle = found.save(tmp_path / "tuned.headstart")
    found.save_run(tmp_path / "tuned.run")
    export = Exporting(bundle, photos=table).write("onnx")
    assert export.parity.pixels.largest <= 1e-3
    page = write_report(bundle).read_text()
    assert "loss by epoch" in page
    # Nothing has been read but the test photos: thresholds are of photos held out.
    assert found.tuning.held_out is not None
    rows, outputs = found.tuning.held_out
    assert len(rows) == len(outputs) <= found.bundle.manifest["samples"]["train"]


def test_what_does_not_help_leaves_the_probe(places: Path) -> None:
    recipe = choose_recipe("tune", **{**SETTINGS, "learning_rate": 1e-8, "epochs": 1})
    found = ImageClassifier(build_network(SIZE), recipe=recipe, task="regression").fit(
        places / "sizes.csv"
    )
    probe = ImageClassifier(build_network(SIZE), task="regression").fit(places / "sizes.csv")
    assert found.tuning is not None
    assert found.tuning.share == 0
    assert "the probe is kept" in found.tuning.says
    assert found.evaluation == probe.evaluation
    photos = [places / f"{number}.png" for number in range(8)]
    assert np.array_equal(found.predict(photos), probe.predict(photos))


def test_smoothing_of_numbers_is_refused(places: Path) -> None:
    recipe = choose_recipe("tune", label_smoothing=0.3)
    with pytest.raises(HeadstartError, match=r"label_smoothing is 0\.3; of numbers there is none"):
        ImageClassifier(recipe=recipe, task="regression").fit(places / "sizes.csv")
