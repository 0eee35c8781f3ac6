"""``headstart explain``: what it writes, and what it says where it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from headstart.cli.commands import app


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def test_a_picture_per_photo(trained_bundle: Path, digits_folder: Path, tmp_path: Path) -> None:
    photos = [digits_folder / "0" / "000.png", digits_folder / "1" / "000.png"]
    done = run(trained_bundle, *photos, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "drawn by grad-cam" in done.output
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000-2.png", "000.png"]
    for name in names:
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.size == (64, 64)


def test_json_names_what_was_drawn_and_what_could_not_be(
    trained_bundle: Path, digits_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(digits_folder / "2" / "001.png", folder / "good.png")
    (folder / "bad.jpg").write_bytes(b"no image")
    done = run(trained_bundle, folder, "-o", tmp_path / "out", "--class", "3", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    bad, good = told["pictures"]
    assert told["method"] == "grad-cam"
    assert (bad["picture"], bad["label"]) == (None, None)
    assert bad["problem"]
    assert good["label"] == "3"
    assert Path(good["picture"]).is_file()
    assert "bad.jpg" in done.stderr


def test_pictures_are_not_overwritten_unasked(
    trained_bundle: Path, digits_folder: Path, tmp_path: Path
) -> None:
    photo, out = digits_folder / "0" / "000.png", tmp_path / "out"
    assert run(trained_bundle, photo, "-o", out).exit_code == 0
    again = run(trained_bundle, photo, "-o", out)
    assert again.exit_code == 1
    assert "--force" in str(again.exception)
    assert run(trained_bundle, photo, "-o", out, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("--class", "7"), "is not a class"), (("--method", "magic"), "is not a method")],
)
def test_what_does_not_exist_is_named(
    trained_bundle: Path, digits_folder: Path, tmp_path: Path, arguments: Any, says: str
) -> None:
    done = run(trained_bundle, digits_folder / "0" / "000.png", "-o", tmp_path / "out", *arguments)
    assert done.exit_code == 1
    assert says in str(done.exception)


def test_nothing_to_explain_ends_with_an_error(trained_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    done = run(trained_bundle, tmp_path / "bad.jpg", "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "bad.jpg" in done.stderr


def test_an_output_that_is_a_file_is_one_sentence(
    trained_bundle: Path, digits_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine")
    done = run(trained_bundle, digits_folder / "0" / "000.png", "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "cannot be made a folder" in str(done.exception)
