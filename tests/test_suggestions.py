"""Suggestions of photos to label: what is known is passed over, what is unclear comes first."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, PHOTOS_PER_CLASS, encode, write_digits
from typer.testing import CliRunner

from headstart import suggest_photos
from headstart.cli.commands import app
from headstart.errors import DatasetError, HeadstartError


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    """New digits in one folder, some that are known, a copy, one that is broken."""
    source = tmp_path_factory.mktemp("source")
    write_digits(source, CLASSES, PHOTOS_PER_CLASS + 15, start=PHOTOS_PER_CLASS)
    folder = tmp_path_factory.mktemp("unlabelled")
    for path in source.glob("*/*.png"):
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    for number in range(3):
        shutil.copy(digits_folder / "0" / f"00{number}.png", folder / f"known{number}.png")
    shutil.copy(folder / "0-020.png", folder / "z-copy.png")
    (folder / "broken.png").write_bytes(b"broken")
    return folder


def test_new_photos_are_suggested_once(trained_bundle: Path, unlabelled: Path) -> None:
    found = suggest_photos(unlabelled, trained_bundle, 10)
    assert len({row.path for row in found.rows}) == 10
    assert not any(row.path.name.startswith(("known", "z-")) for row in found.rows)
    assert found.known == 4
    assert [problem.path.name for problem in found.problems] == ["broken.png"]
    assert found.photos == len(list(unlabelled.iterdir()))


def test_they_are_less_sure_than_the_rest(
    trained_bundle: Path, trained: Any, unlabelled: Path
) -> None:
    found = suggest_photos(unlabelled, trained_bundle, 5)
    margins = [row.probability - row.other_probability for row in found.rows]
    assert margins == sorted(margins)
    known = ("known", "z-", "broken")
    paths = [path for path in sorted(unlabelled.iterdir()) if not path.name.startswith(known)]
    odds = np.sort(trained.predict_proba(paths), axis=1)
    others = odds[:, -1] - odds[:, -2]
    # Of five, each is the middle one of its kind; where all are wanted they are in their order.
    first = suggest_photos(unlabelled, trained_bundle, len(paths)).rows[0]
    least = first.probability - first.other_probability
    assert least == pytest.approx(min(others), abs=0.01)
    assert margins[0] < np.quantile(others, 0.2)
    assert np.mean(margins) < np.mean(others)


def test_what_is_said_is_what_predict_says(
    trained_bundle: Path, trained: Any, unlabelled: Path
) -> None:
    for row in suggest_photos(unlabelled, trained_bundle, 5).rows:
        (said,) = trained.predictor.predict([row.path])
        assert row.label == said.label
        assert row.probability == pytest.approx(said.probability, abs=2e-3)
        assert row.is_novel == said.is_novel
        assert f"{row.label} {row.probability:.0%} or {row.other}" in row.says


def test_the_table_is_to_be_filled_in(
    trained_bundle: Path, unlabelled: Path, tmp_path: Path
) -> None:
    found = suggest_photos(unlabelled, trained_bundle, 6)
    found.write_csv(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]) for row in rows] == [row.path for row in found.rows]
    assert {row["label"] for row in rows} == {""}
    with pytest.raises(HeadstartError, match="exists already"):
        found.write_csv(tmp_path / "a.csv")


def test_the_page_has_the_photos(trained_bundle: Path, unlabelled: Path, tmp_path: Path) -> None:
    suggest_photos(unlabelled, trained_bundle, 6).write_html(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "No photos found"),
        (lambda folder: (folder / "a.png").write_bytes(b"broken"), "No photo can be read"),
    ],
)
def test_nothing_to_suggest_says_why(
    trained_bundle: Path, tmp_path: Path, make: Any, says: str
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    make(folder)
    with pytest.raises(DatasetError, match=says):
        suggest_photos(folder, trained_bundle)


def test_only_known_photos_say_so(trained_bundle: Path, digits_folder: Path) -> None:
    with pytest.raises(DatasetError, match="are known to the classifier already"):
        suggest_photos(digits_folder, trained_bundle)
    with pytest.raises(HeadstartError, match="from 1 on"):
        suggest_photos(digits_folder, trained_bundle, 0)


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["suggest", *map(str, arguments)])


def test_the_command(trained_bundle: Path, unlabelled: Path, tmp_path: Path) -> None:
    table, page = tmp_path / "a.csv", tmp_path / "a.html"
    files = ("--csv", table, "--html", page)
    done = run(unlabelled, "--bundle", trained_bundle, "-n", "4", *files)
    assert done.exit_code == 0, done.output
    assert "4 of 65 photos, 4 known already" in done.output
    assert table.is_file()
    assert page.is_file()
    again = run(unlabelled, "--bundle", trained_bundle, *files)
    assert again.exit_code == 1
    assert "--force" in str(again.exception)


def test_the_command_in_json(trained_bundle: Path, unlabelled: Path) -> None:
    done = run(unlabelled, "--bundle", trained_bundle, "-n", "4", "--json")
    told = json.loads(done.stdout)
    assert len(told["suggestions"]) == 4
    assert told["known"] == 4
    assert [Path(p["path"]).name for p in told["problems"]] == ["broken.png"]


def test_a_photo_unlike_all_others_is_called_so(trained_bundle: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3))
    (tmp_path / "noise.png").write_bytes(encode(noise))
    (row,) = suggest_photos([tmp_path / "noise.png"], trained_bundle).rows
    assert row.is_novel
    assert row.says.endswith("unlike the training photos")
