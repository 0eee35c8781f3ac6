"""Groups on the command line: --group-by, and the split that an overwritten bundle hands on."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import write_digits

from headstart.bundle import load_bundle
from headstart.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
    try:
        main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def read_split(path: Path) -> dict[str, Any]:
    split: dict[str, Any] = load_bundle(path).manifest["split"]
    return split


def test_group_by(
    digits_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = tmp_path / "a.headstart"
    pattern = "([0-9])[.]png$"  # ten groups over four classes, by the last digit
    assert run(monkeypatch, "train", digits_folder, "-o", bundle, "--group-by", pattern) == 0
    groups = read_split(bundle)["groups"]
    assert len(groups) <= 10
    assert sum(map(len, groups)) == 80
    capsys.readouterr()
    assert run(monkeypatch, "train", digits_folder, "--group-by", "(", "-o", bundle, "--force") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "'(' is not a regular expression" in said


def test_an_overwritten_bundle_hands_its_test_photos_on(
    digits_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos, bundle = shutil.copytree(digits_folder, tmp_path / "photos"), tmp_path / "a.headstart"
    assert run(monkeypatch, "train", photos, "-o", bundle) == 0
    before = read_split(bundle)
    # Twelve photos of a class go, and twelve new ones come: at the limits somebody would move.
    for path in sorted((photos / "0").iterdir())[:12]:
        path.unlink()
    write_digits(photos, ("0",), 32, start=20)
    capsys.readouterr()
    assert run(monkeypatch, "train", photos, "-o", bundle, "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    after = read_split(bundle)
    there = {*after["train"], *after["test"]}
    assert set(before["test"]) & there <= set(after["test"])
    assert set(before["train"]) & there <= set(after["train"])
    # Another seed is another split.
    assert run(monkeypatch, "train", photos, "-o", bundle, "--force", "--seed", "5") == 0
    assert set(read_split(bundle)["test"]) != set(after["test"])
