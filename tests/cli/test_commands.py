"""The commands as a user meets them: what they print, what they write, how they end."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import headstart
from headstart.cli import main
from headstart.cli.output import write_predictions
from headstart.predictor import Predictor


class Done(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        assert self.status == 0, self.stderr
        return json.loads(self.stdout)

    @property
    def rows(self) -> list[dict[str, str]]:
        """The CSV on stdout."""
        assert self.status == 0, self.stderr
        return list(csv.DictReader(io.StringIO(self.stdout)))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command in this process; whatever it does not translate fails the test."""

    def command(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
        else:
            status = 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(status, captured.out, captured.err)

    return command


@pytest.fixture
def photos(digits_folder: Path, tmp_path: Path) -> Path:
    """A copy of the digits that a test may change."""
    return shutil.copytree(digits_folder, tmp_path / "photos")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in a folder of their own, since some write into the current one."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(done: Done, *parts: str, status: int = 1) -> None:
    """The command ended with a sentence on stderr and nothing on stdout."""
    text = " ".join(done.stderr.split())
    assert done.status == status, text
    assert done.stdout == ""
    assert "error" in text.lower()
    for part in parts:
        assert part in text


# ---- the command itself


def test_as_a_process() -> None:
    def end(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "headstart", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    version = end("--version")
    assert (version.returncode, version.stdout) == (0, f"headstart {headstart.__version__}\n")
    unknown = end("trian")
    assert unknown.returncode == 2
    assert "No such command" in unknown.stderr
    failed = end("predict", "missing.headstart", "a.jpg")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: missing.headstart does not exist.")
    assert failed.stdout == ""
    assert "Traceback" not in unknown.stderr + failed.stderr


def test_the_reader_of_the_output_may_leave(trained_bundle: Path) -> None:
    # More lines than fit into a pipe; those of files that do not exist are quickly made.
    missing = [f"{number:060}.jpg" for number in range(3000)]
    command = [sys.executable, "-m", "headstart", "predict", trained_bundle, *missing]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"path,label,probability,set,sure,novel,problem\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (0, 1)


def test_an_interrupted_command_ends_with_130(
    run: Any, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(headstart.ImageClassifier, "fit", interrupt)
    done = run("train", digits_folder)
    assert done.status == 130
    assert not list(Path.cwd().iterdir())


def test_help_of_every_command(run: Any) -> None:
    done = run("--help")
    assert done.status == 0
    for name in ("demo", "train", "predict", "evaluate", "backbones", "features"):
        assert name in done.stdout
        assert run(name, "--help").status == 0
    assert run("cache", "info", "--help").status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "a", "--unknown"],
        ["train", "a", "--seed", "x"],
        ["train", "a", "--seed", "-1"],
        ["predict"],
        ["predict", "a.headstart"],
        ["predict", "a", "b", "--top-k", "0"],
        ["evaluate", "a"],
        ["cache", "unknown"],
    ],
)
def test_wrong_usage_ends_with_2(run: Any, arguments: list[str]) -> None:
    refused(run(*arguments), status=2)


# ---- train


@pytest.mark.parametrize("option", ["--unfreeze", "--epochs", "--learning-rate", "--augment"])
def test_the_recipe_probe_takes_no_settings_of_fine_tuning(
    run: Any, digits_folder: Path, tmp_path: Path, option: str
) -> None:
    done = run("train", digits_folder, "-o", tmp_path / "a", "--recipe", "probe", option, "1")
    assert (done.status, done.stdout) == (1, "")
    assert "--recipe probe trains the head alone" in " ".join(done.stderr.split())


def test_nothing_unfrozen_is_the_probe_and_takes_no_more_settings(
    run: Any, digits_folder: Path, tmp_path: Path
) -> None:
    command = ("train", digits_folder, "-o", tmp_path / "a.headstart", "--unfreeze", "none")
    refused(run(*command, "--epochs", "3"), "--unfreeze none trains the head alone", "last_block")
    done = run(*command)
    assert done.status == 0, done.stderr
    assert "epoch" not in done.stdout + done.stderr
    recipe = headstart.load(tmp_path / "a.headstart").bundle.manifest["recipe"]
    assert (recipe["name"], recipe["stages"]) == ("probe", ["probe"])


def test_a_search_takes_no_settings_that_it_looks_for(
    run: Any, digits_folder: Path, tmp_path: Path
) -> None:
    command = ("train", digits_folder, "-o", tmp_path / "a", "--recipe", "search")
    refused(run(*command, "--unfreeze", "half"), "Leave out unfreeze", 'recipe "tune"')


def test_train_unfreezes_and_shows_each_epoch(
    run: Any, digits_folder: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "tuned.headstart"
    options = ("--epochs", 2, "--augment", 2, "--learning-rate", "1e-4")
    done = run("train", digits_folder, "-o", bundle, "--unfreeze", "last_block", *options)
    assert done.status == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert "1/2 loss" in told
    # What it costs is said before the first epoch.
    price = told.index("2 views of ")
    assert "photos up to block6d_add: at most 2 MB of cache" in told
    assert price < told.index("1/2 loss")
    assert "held out: loss" in done.stderr
    text = " ".join(done.stdout.split())
    assert "block7a 8 1,009,792" in text
    assert "cached up to block6d_add (7 × 7 × 192), 87% of the multiply-adds" in text
    assert "Fine-tuning" in text
    found = run("train", digits_folder, "-o", bundle, "--force", "--json", "--recipe", "tune",
                "--unfreeze", "last_block", *options).json  # fmt: skip
    assert found["recipe"]["stages"] == ["probe", "fine_tune"]
    assert found["recipe"]["fine_tune"]["unfreeze"] == "last_block"
    assert found["fine_tune"]["boundary"] == "block6d_add"
    assert found["seconds"]["fine_tune"] > 0
    refused(
        run("train", digits_folder, "-o", bundle, "--force", "--unfreeze", "block9"),
        "'block9' is not a block of efficientnet_lite0",
        "Did you mean",
    )


def test_train_json_is_the_documented_object(
    run: Any, digits_folder: Path, few_digits: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "digits.headstart"
    command = ("train", digits_folder, "-o", bundle, "--recipe", "probe", "--json")
    found = run(*command).json
    assert set(found) == {
        *("bundle", "task", "backbone", "recipe", "runtime", "samples", "problems", "flags"),
        *("evaluation", "validation", "fine_tune", "seconds", "warnings"),
        *("comparison", "cross_validation", "trust", "plan", "backbone_choice"),
    }
    assert found["fine_tune"] is None
    assert found["bundle"] == str(bundle)
    assert found["backbone"] == "efficientnet-lite0"
    assert found["recipe"] == {"name": "probe", "stages": ["probe"], "folds": 5}
    assert found["runtime"].startswith("onnxruntime ")
    test = found["samples"]["test"]
    assert found["samples"] == {"train": 80 - test, "validation": 0, "test": test}
    assert found["problems"] == []
    assert found["validation"] is None
    assert list(found["seconds"]) == [
        *("scan", "decode", "prefix", "groups", "probe", "fine_tune", "trust", "evaluate", "total")
    ]
    assert sum(list(found["seconds"].values())[:-1]) <= found["seconds"]["total"] + 0.1
    evaluation = found["evaluation"]
    assert set(evaluation) == {
        *("photos", "accuracy", "balanced_accuracy", "log_loss", "ece", "majority", "per_class"),
        *("confusion", "class_names", "top_k", "calibration", "trust"),
    }
    for key in ("accuracy", "balanced_accuracy", "log_loss"):
        assert set(evaluation[key]) == {"value", "low", "high"}
    assert evaluation["accuracy"]["value"] >= 0.7
    assert set(evaluation["per_class"][0]) == {"name", "photos", "precision", "recall", "f1"}
    assert np.array(evaluation["confusion"]).shape == (4, 4)
    assert np.array(evaluation["confusion"]).sum() == evaluation["photos"] == test
    assert any("Few training photos" in warning for warning in found["warnings"])
    assert bundle.is_file()
    assert run(*command, "--force").json["evaluation"] == evaluation
    # The same by default, on photos that are too few for more than the head.
    plain = run("train", few_digits, "-o", tmp_path / "few.headstart", "--json").json
    assert set(plain) == set(found)
    assert plain["fine_tune"] is None
    assert plain["recipe"] == {"name": "auto", "stages": ["probe"], "folds": 5}


def test_train_prints_the_figures(run: Any, digits_folder: Path, elsewhere: Path) -> None:
    done = run("train", digits_folder)
    assert done.status == 0
    assert "accuracy " in done.stdout
    assert " photos (largest class: " in done.stdout
    assert "mostly confused with" in done.stdout
    assert "note: Few training photos" in done.stderr
    # The name of the bundle comes from the folder's.
    written = elsewhere / f"{digits_folder.name}.headstart"
    assert f"saved {written.name}" in done.stdout
    assert set(elsewhere.iterdir()) == {written, written.with_suffix(".run")}


def test_names_with_brackets_are_printed_as_they_are(
    run: Any, digits_folder: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "a [bold] name.headstart"
    done = run("train", digits_folder, "-o", bundle, "--recipe", "probe")
    assert done.stdout.count("a [bold] name.headstart") == 3
    assert "[bold]" in run("report", bundle, "--no-open").stdout


def test_an_output_is_not_overwritten(run: Any, digits_folder: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "a.headstart"
    bundle.write_bytes(b"something dear")
    refused(run("train", digits_folder, "-o", bundle), "exists already", "--force")
    # That is said before any time is spent, here on a folder that is not there.
    refused(run("train", tmp_path / "missing", "-o", bundle), "exists already", "--force")
    assert bundle.read_bytes() == b"something dear"
    assert run("train", digits_folder, "-o", bundle, "--force").status == 0
    assert bundle.stat().st_size > 1000


def test_impossible_outputs_are_refused(run: Any, digits_folder: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "a.headstart"
    refused(run("train", digits_folder, "-o", missing), "does not exist", "Create it")
    refused(run("train", digits_folder, "-o", tmp_path), "is a folder")
    assert not missing.parent.exists()


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="/proc is a folder nobody writes to")
def test_a_folder_that_cannot_be_written_is_refused(run: Any, digits_folder: Path) -> None:
    refused(run("train", digits_folder, "-o", "/proc/a.headstart"), "cannot be written")


def test_a_test_folder(run: Any, digits_folder: Path, photos: Path, tmp_path: Path) -> None:
    found = run("train", photos, "--test", digits_folder, "-o", tmp_path / "a", "--force", "--json")
    # Every photo is in both: nothing is left to train on that would not leak.
    refused(found, "classes without training photos")
    for name in "0123":
        for path in sorted((photos / name).iterdir())[:5]:
            path.unlink()
    test = tmp_path / "test"
    for name in "0123":
        (test / name).mkdir(parents=True)
        for path in sorted((digits_folder / name).iterdir())[:5]:
            shutil.copy(path, test / name)
    found = run("train", photos, "--test", test, "-o", tmp_path / "a", "--json").json
    assert found["samples"] == {"train": 60, "validation": 0, "test": 20}
    refused(run("train", photos, "--test", tmp_path / "none", "-o", tmp_path / "b"), "not exist")
    assert not (tmp_path / "b").exists()


def test_folders_named_as_sides_are_used(run: Any, digits_folder: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(digits_folder.glob("*/*.png"))):
        side = ("train", "train", "val", "test")[number % 4]
        target = tmp_path / "sides" / side / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    found = run("train", tmp_path / "sides", "-o", tmp_path / "a", "--json").json
    assert found["samples"] == {"train": 40, "validation": 20, "test": 20}
    assert found["validation"]["photos"] == 20


def test_unknown_names_are_answered_with_near_ones(run: Any, digits_folder: Path) -> None:
    done = run("train", digits_folder, "--backbone", "efficientnet-lite")
    refused(done, "'efficientnet-lite' is not a known backbone.", "Did you mean efficientnet-lite")
    refused(run("train", digits_folder, "--recipe", "probes"), "Did you mean probe?")
    done = run("features", digits_folder, "--backbone", "vgg")
    refused(done, "'vgg' is not a known backbone.", "headstart backbones")


def test_folders_that_make_no_classifier(run: Any, photos: Path, tmp_path: Path) -> None:
    refused(run("train", tmp_path / "missing"), "does not exist")
    refused(run("train", photos / "0" / "000.png"), "is a file")
    (tmp_path / "empty").mkdir()
    refused(run("train", tmp_path / "empty"), "No photos found", "one folder per class")
    refused(run("train", photos / "0"), "No photos found", "20 files could not be used")
    shutil.copytree(photos / "0", tmp_path / "one" / "only")
    refused(run("train", tmp_path / "one"), "Only one class was found (only)")
    (photos / "rare").mkdir()
    Image.new("RGB", (40, 40), "red").save(photos / "rare" / "a.png")
    refused(run("train", photos), "fewer than two different training photos: rare")
    shutil.copytree(photos / "0", tmp_path / "texts" / "a")
    for name in ("a", "b"):
        (tmp_path / "texts" / name).mkdir(exist_ok=True)
        for number in range(3):
            (tmp_path / "texts" / name / f"{number}.jpg").write_text(f"{name}{number}")
    done = run("train", tmp_path / "texts")
    assert done.status == 1
    assert not list(Path.cwd().iterdir())


@pytest.mark.skipif(os.name == "nt", reason="links need a permission there")
def test_a_link_to_itself_is_refused(run: Any, trained_bundle: Path) -> None:
    Path("loop").symlink_to("loop")
    refused(run("train", "loop"), "loop")
    refused(run("evaluate", trained_bundle, "loop"), "loop")
    done = run("predict", trained_bundle, "loop")
    assert done.status == 1
    assert "1 of 1 photo could not be read" in done.stderr
    assert "Too many levels of symbolic links" in done.stdout


def test_photos_that_cannot_be_read_are_listed(run: Any, photos: Path, tmp_path: Path) -> None:
    broken, empty = photos / "0" / "broken [bold].png", photos / "1" / "empty.jpg"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    empty.touch()
    found = run("train", photos, "-o", tmp_path / "a", "--json").json
    reasons = {problem["path"]: problem["reason"] for problem in found["problems"]}
    assert set(reasons) == {str(broken), str(empty)}
    assert reasons[str(empty)] == "empty file"
    assert all(set(problem) == {"path", "reason"} for problem in found["problems"])
    done = run("train", photos, "-o", tmp_path / "b")
    assert done.status == 0
    assert "2 files were not used" in done.stderr
    assert f"{broken}: " in done.stderr  # also with what rich would take for a style


def test_class_names_of_all_kinds(run: Any, photos: Path, tmp_path: Path) -> None:
    names = ["[bold]red[", "ünï 猫", "a,b;\"c'"]
    for old, new in zip("012", names, strict=True):
        (photos / old).rename(photos / new)
    bundle = tmp_path / "a.headstart"
    assert run("train", photos, "-o", bundle).status == 0
    for path in photos.glob("*/0[01]*.png"):
        if path.name != "000.png":
            path.unlink()
    done = run("evaluate", bundle, photos)
    assert all(name in done.stdout for name in names)
    rows = run("predict", bundle, photos / names[2], "--csv").rows
    assert names[2] in {row["label"] for row in rows}


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_class_name_that_is_not_utf8(few_digits: Path, tmp_path: Path) -> None:
    photos, name = shutil.copytree(few_digits, tmp_path / "photos"), os.fsdecode(b"caf\xe9")
    try:
        (photos / "0").rename(photos / name)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")

    def end(*arguments: str | Path) -> bytes:
        command = [sys.executable, "-m", "headstart", *arguments]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    bundle = tmp_path / "a.headstart"
    assert json.loads(end("train", photos, "-o", bundle, "--json").decode(errors="replace"))
    assert b"caf\xe9" in end("predict", bundle, photos / name, "--csv")
    assert b"caf" in end("evaluate", bundle, photos)


# ---- predict


def test_predict_csv(run: Any, trained_bundle: Path, digits_folder: Path) -> None:
    paths = sorted(digits_folder.glob("*/00[0-2].png"))
    rows = run("predict", trained_bundle, *paths, "--csv").rows
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert list(rows[0]) == ["path", "label", "probability", "set", "sure", "novel", "problem"]
    for row in rows:
        assert row["set"].split(";")[0] == row["label"]
        assert {row["sure"], row["novel"]} <= {"yes", "no"}
    assert all(row["label"] in "0123" and 0.25 <= float(row["probability"]) <= 1 for row in rows)
    # Where nobody looks, CSV is what is printed anyway.
    assert run("predict", trained_bundle, *paths).rows == rows


def test_predict_json(run: Any, trained_bundle: Path, digits_folder: Path) -> None:
    paths = sorted(digits_folder.glob("*/000.png"))
    done = run("predict", trained_bundle, *paths, "--json", "--top-k", "2")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in found] == [str(path) for path in paths]
    for row in found:
        assert set(row) == {
            *("path", "label", "probability", "probabilities", "top"),
            *("set", "sure", "novelty", "novel"),
        }
        assert row["set"][0] == row["label"]
        assert row["novel"] == (row["novelty"] > 1)
        assert set(row["probabilities"]) == {"0", "1", "2", "3"}
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probabilities"][row["label"]] == row["probability"]
        assert row["probability"] == max(row["probabilities"].values())
        assert [top["label"] for top in row["top"]] == list(row["probabilities"])[:2]


def test_predict_top_k(run: Any, trained_bundle: Path, digits_folder: Path) -> None:
    photo = digits_folder / "1" / "000.png"
    (row,) = run("predict", trained_bundle, photo, "--csv", "--top-k", "3").rows
    assert list(row) == [
        *("path", "label", "probability", "label_2", "probability_2", "label_3", "probability_3"),
        *("set", "sure", "novel", "problem"),
    ]
    figures = [float(row[f"probability{k}"]) for k in ("", "_2", "_3")]
    assert figures == sorted(figures, reverse=True)
    (all_of_them,) = run("predict", trained_bundle, photo, "--csv", "--top-k", "99").rows
    assert len(all_of_them) == 5 + 4 * 2


def test_predict_says_what_it_is_not_sure_of(
    trained_bundle: Path, digits_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor, strict = (Predictor(trained_bundle, precision=p) for p in (0.9, 0.99))
    paths = sorted(digits_folder.glob("*/*.png"))
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    answers = [
        *predictor.predict(paths),
        *strict.predict(paths),
        *(replace(p, item=Path("noise.png")) for p in predictor.predict([noise])),
    ]
    write_predictions(answers, predictor.class_names, "text", 1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(answers)
    for answer, line in zip(answers, lines, strict=True):
        assert ("not sure: " in line) == (not answer.is_sure)
        assert line.count("%") == (1 if answer.is_sure else 2)
        assert ("does not look like the training photos" in line) == answer.is_novel
    assert lines[-1].startswith("noise.png")
    assert "does not look like" in lines[-1]
    assert {answer.is_sure for answer in answers} == {True, False}


def test_sets_grow_with_the_coverage_and_views_change_the_answer(
    run: Any, trained_bundle: Path, few_digits: Path
) -> None:
    def sizes(*options: str) -> int:
        rows = run("predict", trained_bundle, few_digits, "--csv", *options).rows
        return sum(len(row["set"].split(";")) for row in rows)

    assert sizes("--coverage", "0.8") <= sizes() <= sizes("--coverage", "0.99")
    assert sizes("--coverage", "0.8") < sizes("--coverage", "0.99")
    refused(
        run("predict", trained_bundle, few_digits, "--coverage", "0.7"), "accepted are 0.8, 0.9"
    )
    refused(run("evaluate", trained_bundle, few_digits, "--precision", "2"), "accepted are 0.9")
    plain, mirrored = (
        run("evaluate", trained_bundle, few_digits, "--json", "--views", views).json["evaluation"]
        for views in ("1", "2")
    )
    assert plain["log_loss"] != mirrored["log_loss"]
    assert plain["trust"]["coverage_asked"] == 0.9


def test_predict_folders_and_patterns(
    run: Any, trained_bundle: Path, few_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run("predict", trained_bundle, few_digits).rows
    assert len(folder) == 12
    assert run("predict", trained_bundle, f"{few_digits}/**/*.png").rows == folder
    monkeypatch.chdir(few_digits)
    rows = run("predict", trained_bundle, "2/00*.png", "0/000.png").rows
    assert [row["path"] for row in rows] == [f"2/00{n}.png" for n in range(3)] + ["0/000.png"]
    done = run("predict", trained_bundle, "nothing*.png")
    assert done.status == 1
    assert "nothing*.png,,,,,,the pattern matches no file" in done.stdout
    rows = run("predict", trained_bundle, "nothing*.png", "0/000.png").rows
    assert [bool(row["problem"]) for row in rows] == [True, False], "the others are not stopped"


def test_predict_names_the_photos_it_cannot_read(
    run: Any, trained_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    broken = photos / "broken [x].png"
    broken.write_bytes(b"broken")
    missing, good = tmp_path / "missing.png", photos / "0" / "000.png"
    done = run("predict", trained_bundle, broken, good, missing, "--csv")
    assert [row["path"] for row in done.rows] == [str(broken), str(good), str(missing)]
    problems = [row["problem"] for row in done.rows]
    assert problems == ["not an image of a known format", "", "does not exist"]
    assert [row["label"] == "" for row in done.rows] == [True, False, True]
    assert "2 of 3 photos could not be read" in done.stderr
    lines = run("predict", trained_bundle, broken, good, "--json").stdout.splitlines()
    assert json.loads(lines[0]) == {
        "path": str(broken),
        "problem": "not an image of a known format",
    }


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_what_is_not_a_bundle_is_refused(
    run: Any, command: str, digits_folder: Path, trained_bundle: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.headstart"
    damaged.write_bytes(trained_bundle.read_bytes()[:-1000])
    text = tmp_path / "text.headstart"
    text.write_text("hello")
    for bundle in (damaged, text, digits_folder, digits_folder / "0" / "000.png"):
        refused(run(command, bundle, digits_folder), "bundle")


# ---- evaluate, backbones, cache, features


def test_evaluate(run: Any, trained_bundle: Path, few_digits: Path, tmp_path: Path) -> None:
    found = run("evaluate", trained_bundle, few_digits, "--json").json
    assert set(found) == {
        *("bundle", "task", "backbone", "recipe", "runtime", "samples", "problems", "evaluation"),
        *("seconds", "warnings"),
    }
    assert found["samples"] == {"train": 0, "validation": 0, "test": 12}
    assert found["evaluation"]["accuracy"]["value"] > 0.9
    seconds = found["seconds"]
    assert all(seconds[name] > 0 for name in ("scan", "decode", "prefix", "evaluate"))
    assert seconds["probe"] == seconds["fine_tune"] == 0
    assert sum(seconds.values()) <= 2 * seconds["total"] + 0.01
    done = run("evaluate", trained_bundle, few_digits)
    assert "on 12 photos" in done.stdout
    assert " s: scan " in done.stdout
    photos = shutil.copytree(few_digits, tmp_path / "photos")
    (photos / "0" / "broken.png").write_bytes(b"x")
    found = run("evaluate", trained_bundle, photos, "--json").json
    assert [problem["path"] for problem in found["problems"]] == [str(photos / "0" / "broken.png")]
    (photos / "3").rename(photos / "ant")
    refused(run("evaluate", trained_bundle, photos), "does not know: ant", "It knows: 0, 1, 2, 3")
    refused(run("evaluate", trained_bundle, photos / "0"), "No photo could be evaluated")


def test_backbones(run: Any) -> None:
    from headstart.models.backbones import BACKBONES

    done = run("backbones")
    assert all(name in done.stdout for name in BACKBONES)
    found = run("backbones", "--json").json
    assert [row["name"] for row in found] == list(BACKBONES)
    assert {"parameters", "multiply_adds", "licence", "is_ready", "image_size"} <= set(found[0])


def test_features_and_cache_info(
    run: Any, digits_folder: Path, elsewhere: Path, empty_cache: Path
) -> None:
    info = run("cache", "info", "--json").json
    assert (info["folder"], info["bytes"], info["spaces"]) == (str(empty_cache), 0, [])
    assert str(empty_cache) in run("cache", "info").stdout
    found = run("features", digits_folder, "--json").json
    assert found["shape"] == [80, 1280]
    assert found["forwarded"] == 80
    array = np.load(elsewhere / "features.npy")
    assert array.shape == (80, 1280)
    with (elsewhere / "features.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == [str(number) for number in range(80)]
    assert all(Path(row["path"]).parent.name == row["label"] for row in rows)
    refused(run("features", digits_folder), "exists already", "--force")
    refused(run("features", digits_folder, "-o", "a.csv"), "beside the array", ".npy")
    done = run("features", digits_folder, "--force")
    assert "0 photos were computed, 80 came from the cache" in done.stdout
    assert np.array_equal(np.load(elsewhere / "features.npy"), array)
    info = run("cache", "info", "--json").json
    assert info["bytes"] > array.nbytes
    assert [space["photos"] for space in info["spaces"]] == [80, 80]  # features, and quality
    assert "efficientnet-lite0" in run("cache", "info").stdout


def test_a_cache_that_cannot_be_used_is_named(
    run: Any, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "file"))
    refused(run("train", digits_folder), "cache folder", "HEADSTART_CACHE")
    refused(run("cache", "info"), "cache folder", "HEADSTART_CACHE")


# ---- demo


def test_the_demo(run: Any, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    digits.images, digits.target = digits.images[:120], digits.target[:120]
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: digits)
    done = run("demo")
    assert done.status == 0
    folder = elsewhere / "headstart-demo"
    assert len(list((folder / "photos").glob("*/*.png"))) == 120
    assert (folder / "digits.headstart").is_file()
    assert f"$ headstart train {Path('headstart-demo/photos')}" in done.stdout
    assert "accuracy " in done.stdout
    assert run("demo").status == 0  # once more over the same folder
    Path("file").touch()
    refused(run("demo", "-o", "file"), "cannot be created", "-o")


def test_predict_fails_when_no_photo_can_be_read(
    run: Any, trained_bundle: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.png"
    done = run("predict", trained_bundle, missing, "--csv")
    assert done.status == 1
    assert done.stdout.endswith(",,,does not exist\n")
    assert "1 of 1 photo could not be read" in done.stderr
