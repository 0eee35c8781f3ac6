"""``headstart plan``, budgets of ``train``, and trainings that are ended early."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import write_digits
from test_commands import elsewhere, refused, run  # noqa: F401 - fixtures

import headstart


@pytest.fixture(autouse=True)
def young(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in the process of the tests, which is older than their budgets."""
    monkeypatch.setattr("headstart.budget._get_process_age", lambda: 0.0)


def test_a_plan_says_what_would_be_done_and_trains_nothing(
    run: Any,  # noqa: F811
    digits_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headstart.training.climb.FEWEST_PHOTOS", 100)
    done = run("plan", digits_folder, "--budget", "2m")
    text = " ".join(done.stdout.split())
    for part in ("first pass", "of 80 photos", "the first usable model", "budget 2 min"):
        assert part in text
    assert "could not be told from chance" in text
    found = run("plan", digits_folder, "--json").json
    assert (found["photos"], found["is_strict"], found["actual"]) == (80, False, None)
    assert not list(tmp_path.rglob("*.headstart"))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_plan_of_the_whole_network_says_what_it_costs(
    run: Any,  # noqa: F811
    digits_folder: Path,
    tmp_path: Path,
) -> None:
    import keras

    photos = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, 2, name="block1_conv")(photos)
    keras.Model(photos, keras.layers.ReLU(name="block1_relu")(x)).save(tmp_path / "small.keras")
    backbone = ("--backbone", f"local:{tmp_path / 'small.keras'}")
    whole = ("--unfreeze", "all", "--augment", "live")
    found = {}
    for epochs in ("2", "20"):
        plan = run("plan", digits_folder, *backbone, *whole, "--epochs", epochs, "--json").json
        (found[epochs],) = (s for s in plan["steps"] if s["name"] == "fine-tuning")
        assert found[epochs]["what"] == f"whole network, new views, up to {epochs} epochs"
        assert (found[epochs]["cached_bytes"], found[epochs]["is_taken"]) == (0, True)
    assert found["20"]["seconds"] > found["2"]["seconds"] > 0
    shown = run("plan", digits_folder, *backbone, *whole, "--epochs", "2")
    assert re.search(r"at least \S+ m?s, about .* with fine-tuning", " ".join(shown.stdout.split()))
    late = run("plan", digits_folder, *backbone, *whole, "--epochs", "9999", "--budget", "1m")
    assert "will not be finished" in " ".join(late.stdout.split())
    refused(run("plan", digits_folder, "--augment", "often"), '1 to 1000, and "live"')
    refused(run("plan", digits_folder, *backbone, "--unfreeze", "none"), "nothing to time")


def test_a_budget_that_cannot_be_kept_or_read_is_refused(
    run: Any,  # noqa: F811
    digits_folder: Path,
    empty_cache: Path,
) -> None:
    refused(run("train", digits_folder, "--budget", "0.5s"), "need at least", "Give --budget")
    refused(run("plan", digits_folder, "--budget", "soon"), "'soon' is not a duration")


def test_the_default_recipe_prints_its_plan_before_and_after(
    run: Any,  # noqa: F811
    digits_folder: Path,
    tmp_path: Path,
) -> None:
    done = run("train", digits_folder, "-o", tmp_path / "a.headstart")
    assert "predicted" in done.stderr
    assert "took" not in done.stderr
    assert "took" in done.stdout
    assert "budget 2 min for more than the probe" in " ".join(done.stdout.split())
    recipe = headstart.load(tmp_path / "a.headstart").bundle.manifest["recipe"]
    assert (recipe["name"], recipe["stages"]) == ("auto", ["probe"])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_a_training_whose_terminal_is_closed_leaves_the_probe_saved(tmp_path: Path) -> None:
    folder, bundle = write_digits(tmp_path / "photos", ("0", "1"), 12), tmp_path / "a.headstart"
    command = [sys.executable, "-m", "headstart", "train", str(folder), "-o", str(bundle)]
    command += ["--unfreeze", "last_block", "--epochs", "9000", "--augment", "1"]
    command += ["--learning-rate", "1e-5"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    while b"/9000" not in process.stderr.readline():  # the first epoch
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    process.stderr.close()  # nobody reads any more
    assert process.wait(120) == 0
    manifest = headstart.load(bundle).bundle.manifest
    assert manifest["recipe"]["name"] == "tune"
    assert manifest["fine_tune"] is None
    assert len(headstart.load(bundle).predict(sorted(folder.glob("*/*.png")))) == 24


def test_a_fine_tuning_that_outlives_its_budget_is_left_out(
    run: Any,  # noqa: F811
    digits_folder: Path,
    tmp_path: Path,
) -> None:
    begin = time.monotonic()
    run("train", digits_folder, "-o", tmp_path / "warm.headstart", "--recipe", "probe")
    least = time.monotonic() - begin
    bundle = tmp_path / "a.headstart"
    seconds = 12 + 2 * least
    settings = ("--unfreeze", "last_block", "--epochs", "9000", "--augment", "1")
    begin = time.monotonic()
    done = run("train", digits_folder, "-o", bundle, "--budget", f"{seconds:.0f}s", *settings)
    assert time.monotonic() - begin < 1.1 * seconds + 2
    assert "not finished within the budget: it takes about" in " ".join(done.stdout.split())
    plan = json.loads(json.dumps(headstart.load(bundle).bundle.manifest["plan"]))
    assert plan["steps"][2]["name"] == "fine-tuning"
    assert headstart.load(bundle).bundle.manifest["fine_tune"] is None
