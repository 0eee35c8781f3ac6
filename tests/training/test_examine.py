"""The photo doctor: what is planted is found, tables are written, photos stay as they are."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_network, encode
from PIL import Image, ImageFilter

import headstart
from headstart import ImageClassifier
from headstart.cli import main
from headstart.data.decode import decode_photo
from headstart.data.quality import measure_quality
from headstart.data.scan import Sample
from headstart.errors import DatasetError, HeadstartError, OutputExistsError
from headstart.evaluation.label_errors import find_label_errors, find_outliers
from headstart.features.quality import extract_quality
from headstart.training.examine import find_poor, hold_out_probabilities


@pytest.fixture(scope="module")
def sick(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits with wrong labels, copies within a class and across, broken and odd files."""
    folder = tmp_path_factory.mktemp("sick") / "photos"
    shutil.copytree(digits_folder, folder)
    shutil.move(folder / "0" / "003.png", folder / "1" / "wrong.png")
    shutil.move(folder / "2" / "004.png", folder / "3" / "wrong [b] \n.png")
    shutil.copy(folder / "0" / "005.png", folder / "0" / "005 copy.png")
    shutil.copy(folder / "1" / "006.png", folder / "2" / "strange.png")
    (folder / "0" / "broken.png").write_bytes(b"broken")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (folder / "3" / "noise.png").write_bytes(encode(noise))
    (folder / "9").mkdir()
    for number in range(3):
        shutil.copy(digits_folder / "3" / f"00{number}.png", folder / "9" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def found(sick: Path) -> headstart.training.examine.Examination:  # type: ignore[name-defined]
    return headstart.examine(sick)


def names(found: Any, kind: str) -> set[str]:
    return {f"{f.path.parent.name}/{f.path.name}" for f in found.findings if f.kind == kind}


def test_what_was_planted_is_found(found: Any) -> None:
    assert names(found, "unreadable") == {"0/broken.png"}
    assert names(found, "duplicate") == {"0/005.png"} or names(found, "duplicate") == {
        "0/005 copy.png"
    }
    assert "2/strange.png" in names(found, "duplicate across classes") or (
        "1/006.png" in names(found, "duplicate across classes")
    )
    assert {"1/wrong.png", "3/wrong [b] \n.png"} <= names(found, "label")
    assert names(found, "outlier") == {"3/noise.png"}
    assert {f.label for f in found.findings if f.kind == "class"} >= {"9"}
    wrong = next(f for f in found.findings if f.path.name == "wrong.png")
    assert (wrong.label, wrong.suggestion) == ("1", "0")
    assert "looks like 0" in wrong.says


def test_findings_are_ranked_within_their_kind(found: Any) -> None:
    assert list(found.count()) == list(dict.fromkeys(f.kind for f in found.findings))
    for kind in found.count():
        scores = [f.score for f in found.findings if f.kind == kind]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
    assert sum(found.count().values()) == len(found.findings)


def test_the_corrected_table_trains_without_a_pass(found: Any, sick: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sick.rglob("*.png")}
    changed, removed = found.write_corrected(tmp_path / "corrected.csv")
    assert removed == 1
    assert changed == len(names(found, "label"))
    with (tmp_path / "corrected.csv").open(newline="") as file:
        labels = {Path(row["path"]).name: row["label"] for row in csv.DictReader(file)}
    assert labels["wrong.png"] == "0"
    assert len(labels) <= len(found.samples) - 1
    assert {path: path.read_bytes() for path in sick.rglob("*.png")} == before
    seconds = ImageClassifier().fit(tmp_path / "corrected.csv").seconds
    assert seconds["prefix"] == seconds["decode"] == 0
    with pytest.raises(OutputExistsError, match="--force"):
        found.write_corrected(tmp_path / "corrected.csv")


def test_photos_that_others_are_measured_by_stay(sick: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sides"
    shutil.copytree(sick, folder / "train")
    shutil.copytree(sick, folder / "test")
    for path in (folder / "test").rglob("*.png"):
        path.write_bytes(path.read_bytes() + b" ")  # other bytes, the same picture
    found = headstart.examine(folder)
    assert found.count()["duplicate across sides"] > 10
    found.write_corrected(tmp_path / "corrected.csv")
    with (tmp_path / "corrected.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    tested = [row for row in rows if row["split"] == "test"]
    assert tested
    assert all(row["label"] == Path(row["path"]).parent.name for row in tested)


def run(*arguments: Any) -> int:
    import sys

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def test_the_command_shows_and_writes(
    sick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, labels = tmp_path / "all.csv", tmp_path / "labels.csv"
    assert run("doctor", sick, "--csv", table, "--apply-suggestions", labels, "--top", 4) == 0
    shown = capsys.readouterr().out
    assert "probable wrong labels" in shown
    assert "wrong [b]" in shown  # no markup of the terminal's
    assert "about half of such label flags are right" in shown
    assert "1 copy left out; try: headstart train" in shown
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} >= {"unreadable", "label", "duplicate", "outlier"}
    assert run("doctor", sick, "--csv", table) == 1
    assert "exists already" in capsys.readouterr().err
    assert run("doctor", sick, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["findings"]) == len(rows)
    assert sum(data["counts"].values()) == len(rows)


def test_bad_input_is_a_sentence(
    tmp_path: Path, digits_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="No photos found"):
        headstart.examine(tmp_path / "empty")
    for name in ("a", "b"):
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "x.jpg").write_text(name)
    with pytest.raises(DatasetError, match="Fewer than two classes have photos that can be read"):
        headstart.examine(tmp_path / "texts")
    with pytest.raises(HeadstartError, match="runtime"):
        headstart.examine(digits_folder, runtime="none")
    assert run("doctor") == 2
    assert "PHOTOS" in capsys.readouterr().err


def test_few_photos_have_no_label_flags(few_digits: Path, tmp_path: Path) -> None:
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        shutil.copy(few_digits / name / "000.png", tmp_path / name)
    assert "label" not in headstart.examine(tmp_path).count()


def test_label_errors_of_known_cases() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 600)
    logits = rng.normal(size=(600, 3)) + 3 * np.eye(3)[truth]
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = truth.copy()
    planted = rng.choice(600, 40, replace=False)
    labels[planted] = (labels[planted] + 1) % 3
    found = find_label_errors(odds, labels)
    is_planted = np.isin(np.arange(600), planted)
    assert found.flagged[is_planted].mean() > 0.6
    assert found.flagged[~is_planted].mean() < 0.05
    pairs = found.suspicion[is_planted][:, None] > found.suspicion[~is_planted][None]
    assert pairs.mean() > 0.95  # the area under the ROC curve
    assert (found.suggestions[is_planted] == truth[is_planted]).mean() > 0.9
    assert found.suspicion[is_planted].mean() > 0.7 > 0.3 > found.suspicion[~is_planted].mean()
    assert (found.suggestions != labels).all()
    clean = find_label_errors(np.eye(3)[truth], truth)
    assert not clean.flagged.any()


def test_nothing_is_an_outlier_where_all_are_alike() -> None:
    assert not find_outliers(np.zeros(20))[0].any()
    assert not find_outliers(np.linspace(1, 1.2, 50))[0].any()


def test_poor_photos_are_named_for_what_they_are(digits_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(digits_folder, tmp_path / "photos")
    with Image.open(folder / "1" / "010.png") as photo:
        soft = photo.convert("RGB").filter(ImageFilter.GaussianBlur(6))
        soft.save(folder / "1" / "soft.png")
    with Image.open(folder / "1" / "011.png") as photo:
        night = photo.convert("RGB").point(lambda value: value // 8)
        night.save(folder / "1" / "night.png")
    (folder / "1" / "wall.png").write_bytes(encode(np.full((64, 64, 3), 90)))
    found = headstart.examine(folder)
    assert names(found, "dark") == {"1/night.png"}
    assert names(found, "blank") == {"1/wall.png"}
    assert "1/soft.png" in names(found, "blurred")
    assert not {"1/night.png", "1/wall.png"} & names(found, "blurred")


def test_the_second_examination_opens_no_photo(
    found: Any, sick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise AssertionError("a photo was decoded")

    monkeypatch.setattr("headstart.features.quality.measure_quality", fail)
    again = headstart.examine(sick)
    assert [(f.kind, f.path) for f in again.findings] == [(f.kind, f.path) for f in found.findings]


def test_the_pass_of_a_network_has_measured_what_is_asked_for(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    features = headstart.extract_features(build_network(64), few_digits)
    gone = Sample(Path("gone.jpg"), "0", "00")
    asked: list[tuple[int, int]] = []
    found = extract_quality(
        (*features.samples, gone), 64, lambda done, every: asked.append((done, every))
    )
    count = len(features.samples)
    assert asked == [(count + 1, count + 1)]  # of one photo: the others were known
    pixels = np.stack([decode_photo(s.path.read_bytes(), 64) for s in features.samples])
    np.testing.assert_array_equal(found[:-1], measure_quality(pixels))
    assert np.isnan(found[-1]).all()
    # Of pixels of another side, or in a cache that knows none, all are measured, and alike.
    asked.clear()
    extract_quality(features.samples, 32, lambda done, every: asked.append((done, every)))
    assert len(asked) > 1
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "new"))
    again = extract_quality(features.samples, 64)
    np.testing.assert_array_equal(again, found[:-1])


def test_soft_photos_stand_out_only_from_sharper_ones() -> None:
    samples = [Sample(Path(f"{number}.jpg"), "a", str(number)) for number in range(40)]
    figures = np.tile(np.array([0.6, 0.8, 0.7], np.float32), (40, 1))
    assert list(find_poor(samples, figures)) == []
    figures[7, 0] = 0.8
    assert [f.path.name for f in find_poor(samples, figures)] == ["7.jpg"]
    figures[8] = np.nan  # gone since
    assert [f.path.name for f in find_poor(samples, figures)] == ["7.jpg"]


def test_the_page_shows_pairs_and_escapes_names(found: Any, tmp_path: Path) -> None:
    found.write_html(tmp_path / "a.html", title="<b>sick</b>")
    page = (tmp_path / "a.html").read_text()
    assert "<b>" not in page
    assert "wrong [b]" in page
    pictures = page.count("data:image/jpeg;base64,")
    shown = [f for f in found.findings if f.kind not in ("class", "unreadable")]
    assert pictures == len(shown) + sum(f.other is not None for f in shown)
    assert "1 → 0?" in page
    with pytest.raises(OutputExistsError):
        found.write_html(tmp_path / "a.html")


def test_of_many_photos_only_the_first_are_shown(
    found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.training.findings._MOST_SHOWN", 1)
    found.write_html(tmp_path / "a.html")
    count = found.count()["label"]
    assert (
        f"The first 1 of {count}; headstart doctor --csv has all of them."
        in (tmp_path / "a.html").read_text()
    )


def test_many_photos_are_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faster way finds the same wrong labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 3
    rows = (rng.normal(size=(3, 20))[labels] + 0.5 * rng.normal(size=(600, 20))).astype(np.float32)
    groups = [str(number) for number in range(600)]
    given = labels.copy()
    given[:6] = (given[:6] + 1) % 3
    slow = hold_out_probabilities(rows, given, groups, 3, 0)
    monkeypatch.setattr("headstart.training.examine._MANY", 300)
    monkeypatch.setattr("headstart.training.examine._PART", 150)
    fast = hold_out_probabilities(rows, given, groups, 3, 0)
    for odds in (slow, fast):
        assert odds is not None
        flagged = find_label_errors(odds, given).flagged
        assert flagged[:6].sum() >= 5
        assert flagged[6:].mean() < 0.1
    assert not np.array_equal(slow, fast)
