"""TensorBoard and MLflow: what they are told is read back from their own files."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_network import build_small

from headstart import ImageClassifier
from headstart.errors import HeadstartError, MissingPackageError
from headstart.recipe import choose_recipe
from headstart.tracking import Tracking, check_trackers
from headstart.tracking.record import Series

# MLflow's own, about its database.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

RECIPE = choose_recipe(
    "tune", unfreeze="last_block", epochs=2, views=1, learning_rates=(1e-5, 1e-4), batch_size=16
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder for TensorBoard, a tracking URI for MLflow; artifacts go beside its database."""
    import mlflow

    folder = tmp_path_factory.mktemp("tracked")
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder / "logs", f"sqlite:///{folder}/mlflow.db"
    finally:
        os.chdir(before)
        mlflow.set_tracking_uri("")


@pytest.fixture(scope="module")
def tracked(digits_folder: Path, cache: Path, places: tuple[Path, str]) -> Any:
    """Trained on digits while both watch; with every epoch that a callback saw."""
    folder, uri = places
    seen: list[Any] = []
    classifier = ImageClassifier(
        build_small(), recipe=RECIPE, trackers=(f"tensorboard={folder}", f"mlflow={uri}")
    )
    assert classifier.fit(digits_folder, callbacks=[seen.append]) is classifier
    classifier.seen = seen
    return classifier


@pytest.fixture(scope="module")
def events(tracked: Any, places: tuple[Path, str]) -> dict[tuple[str, str], list[tuple[int, Any]]]:
    """``(folder, tag)`` → ``(step, value)``, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    (run,) = places[0].iterdir()
    found = {}
    for folder in {path.parent for path in run.rglob("events.out.*")}:
        accumulator = EventAccumulator(str(folder), {"tensors": 0}).Reload()
        for tag in accumulator.Tags()["tensors"]:
            name = folder.relative_to(run).as_posix()
            rows = accumulator.Tensors(tag)
            found[name, tag] = [(row.step, make_ndarray(row.tensor_proto)) for row in rows]
    return found


@pytest.fixture(scope="module")
def run(tracked: Any, places: tuple[Path, str]) -> Any:
    """The run as MLflow's client reads it."""
    import mlflow

    client = mlflow.MlflowClient(places[1])
    (found,) = client.search_runs(["0"])
    return found


def test_every_epoch_of_every_run_is_in_both(
    tracked: Any, events: Any, run: Any, places: tuple[Path, str]
) -> None:
    import mlflow

    client = mlflow.MlflowClient(places[1])
    runs = dict.fromkeys(epoch.run for epoch in tracked.seen)
    assert {"rate 1e-05", "rate 0.0001", "fold 1"} < set(runs)
    for name in runs:
        epochs = [epoch for epoch in tracked.seen if epoch.run == name]
        for key, tag in (("loss", "loss"), ("accuracy", "accuracy"), ("learning_rate",) * 2):
            values = [getattr(epoch, key) for epoch in epochs]
            steps, shown = zip(*events[f"{name}/train", f"epoch_{tag}"], strict=True)
            assert list(steps) == [epoch.number - 1 for epoch in epochs]
            np.testing.assert_allclose(np.array(shown, float), values, rtol=1e-6)
            history = client.get_metric_history(run.info.run_id, f"{name}/{tag}")
            assert {m.step: m.value for m in history} == {
                epoch.number: getattr(epoch, key) for epoch in epochs
            }
        held_out = [e.validation_loss for e in epochs if e.validation_loss is not None]
        shown = [value for _, value in events.get((f"{name}/validation", "epoch_loss"), [])]
        np.testing.assert_allclose(np.array(shown, float), held_out, rtol=1e-6)
    assert len(events["probe/train", "epoch_accuracy"]) == len(tracked.bundle.manifest["strengths"])


def test_figures_have_their_intervals_in_both(tracked: Any, events: Any, run: Any) -> None:
    accuracy = tracked.evaluation.accuracy
    expected = {"": accuracy.value, "_low": accuracy.low, "_high": accuracy.high}
    for end, value in expected.items():
        assert run.data.metrics[f"test/accuracy{end}"] == pytest.approx(value)
        assert events[".", f"test/accuracy{end}"] == [(0, pytest.approx(value))]
    assert run.data.metrics["seconds/total"] == tracked.seconds["total"]


def test_settings_and_what_came_of_them_are_parameters(
    tracked: Any, places: tuple[Path, str], run: Any
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    (folder,) = places[0].iterdir()
    content = EventAccumulator(str(folder)).Reload().summary_metadata
    (data,) = (
        plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
        for tag, metadata in content.items()
        if tag.endswith("session_start_info")
    )
    hparams = {
        k: v.string_value or v.number_value for k, v in data.session_start_info.hparams.items()
    }
    for found in (run.data.params, hparams):
        assert found["recipe.fine_tune.unfreeze"] == "last_block"
        assert float(found["recipe.fine_tune.epochs"]) == 2
        assert found["backbone"] == "small"
        assert found["result.fine_tune.boundary"] == tracked.tuning.unfreeze.boundary.name
        assert float(found["result.samples.train"]) == tracked.bundle.manifest["samples"]["train"]


def test_manifest_evaluation_and_report_are_files_of_both(
    tracked: Any, places: tuple[Path, str], run: Any
) -> None:
    import mlflow

    (folder,) = places[0].iterdir()
    client = mlflow.MlflowClient(places[1])
    artifacts = Path(client.download_artifacts(run.info.run_id, "headstart"))
    for place in (folder, artifacts):
        manifest = json.loads((place / "manifest.json").read_text())
        assert manifest["class_names"] == list(tracked.classes_)
        assert manifest["evaluation"]["confusion"] == [*map(list, tracked.evaluation.confusion)]
        assert json.loads((place / "evaluation.json").read_text()) == manifest["evaluation"]
        assert "<html" in (place / "report.html").read_text()
    assert run.info.status == "FINISHED"


def test_a_training_that_fails_is_said_to_have_failed(
    places: tuple[Path, str], tracked: Any, tmp_path: Path
) -> None:
    import mlflow

    with pytest.raises(HeadstartError):
        ImageClassifier(trackers=f"mlflow={places[1]}").fit(tmp_path / "nothing")
    client = mlflow.MlflowClient(places[1])
    statuses = [found.info.status for found in client.search_runs(["0"])]
    assert statuses == ["FAILED", "FINISHED"]
    assert mlflow.active_run() is None


def test_the_active_run_of_mlflow_is_told_and_left_open(places: tuple[Path, str]) -> None:
    import mlflow

    mlflow.set_tracking_uri(places[1])
    with mlflow.start_run() as mine:
        tracking = Tracking([("mlflow", "")], {"seed": 3}, "photos")
        tracking.close("FINISHED")
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == mine.info.run_id
    params = mlflow.MlflowClient().get_run(mine.info.run_id).data.params
    assert params == {"seed": "3", "photos": "photos"}


def test_a_tracker_that_breaks_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart import tracking

    told: list[str] = []

    class Breaking:
        place = "nowhere"

        def __init__(self, where: str) -> None:
            self.where = where

        def __getattr__(self, name: str) -> Any:
            def call(*_: Any) -> None:
                told.append(f"{self.where} {name}")
                if self.where == "bad" and name == "log_epoch":
                    raise OSError("disk full")

            return call

    for name in ("tensorboard", "mlflow"):
        monkeypatch.setitem(tracking.TRACKERS, name, tracking.Kind((), Breaking))
    epoch = type("E", (), dict.fromkeys(tracking.record._EPOCH, 1.0) | {"run": "a", "number": 1})
    watching = Tracking([("tensorboard", "bad"), ("mlflow", "good")], {}, None)
    with caplog.at_level(logging.WARNING, "headstart"):
        for _ in range(2):
            watching.log_epoch(epoch)
    watching.close("FINISHED")
    assert told.count("bad log_epoch") == 1
    assert told.count("good log_epoch") == 2
    assert "good close" in told
    assert "The tracker tensorboard is given up: OSError: disk full" in caplog.text


def test_a_place_that_cannot_be_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    classifier = ImageClassifier(trackers=(f"tensorboard={tmp_path / 'file'}",))
    with pytest.raises(HeadstartError, match="The tracker tensorboard cannot be opened at"):
        classifier.fit("no such photos")


def test_what_is_not_known_or_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HeadstartError, match="'tensorbord' is not a known tracker"):
        check_trackers(["tensorbord"])
    with pytest.raises(HeadstartError, match="is given twice"):
        check_trackers(["mlflow", "mlflow=x"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "ml" in name else 1)
    with pytest.raises(MissingPackageError, match=r'pip install "headstart\[mlflow\]"'):
        ImageClassifier(trackers="mlflow").fit("no such photos")


def test_a_name_that_begins_again_is_another_series() -> None:
    series = Series()
    epoch = type("E", (), dict.fromkeys(["loss", "accuracy", "learning_rate", "seconds"], 0.5))
    epoch.validation_loss = epoch.validation_accuracy = None
    found = []
    for run, number in (("a", 3), ("a", 4), ("b", 1), ("a", 1), ("a", 2)):
        epoch.run, epoch.number = run, number
        found.append(series.describe(epoch)[:2])
    # The first run went on from a checkpoint, after two epochs.
    assert found == [("a", 3), ("a", 4), ("b", 1), ("a - 2", 1), ("a - 2", 2)]


def test_mlflow_reports_to_nobody() -> None:
    code = (
        "from headstart.tracking.mlflow_tracker import MLflowTracker\n"
        "import sys; assert 'mlflow' not in sys.modules\n"
        "tracker = MLflowTracker(sys.argv[1]); tracker.close('FINISHED')\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "print(is_telemetry_disabled())"
    )
    drop = ("CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST", "DO_NOT_TRACK")
    environment = {k: v for k, v in os.environ.items() if k not in drop and "MLFLOW" not in k}
    done = subprocess.run(
        [sys.executable, "-c", code, "sqlite://"],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.split()[-1] == "True"
