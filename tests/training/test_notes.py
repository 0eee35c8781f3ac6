"""Sentences about the photos of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headstart import ImageClassifier
from headstart.data.scan import Manifest, Problem, Sample
from headstart.data.split import Split
from headstart.training.notes import describe_lost, describe_untested


def make_split(groups: dict[str, str]) -> Split:
    samples = tuple(Sample(Path(name), "cat", name) for name in ("a", "b", "c"))
    return Split(samples, (), (), (), 0, "seed", groups)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"a": "a", "b": "b", "c": "c"}, None),
        ({}, None),
        ({"a": "a", "b": "a", "c": "c"}, "are one group: 3 photos are 2."),
    ],
)
def test_photos_that_look_alike_are_why_none_could_be_set_aside(
    groups: dict[str, str], says: str | None
) -> None:
    text = describe_untested(make_split(groups), "of this", "it")
    assert text.startswith("No photos were set aside for a test, because of this: nothing is known")
    assert ("look alike" in text, says is None or says in text) == (says is not None, True)


def test_classes_that_could_not_be_read_are_named() -> None:
    samples = tuple(Sample(Path(name), name[0], name) for name in ("a1", "a2", "b1", "b2", "c1"))
    manifest = Manifest(samples)
    problems = tuple(Problem(Path(name), "torn") for name in ("b2", "a1", "c1", "a2", "other"))
    assert list(describe_lost(manifest, problems[:3])) == [
        "No photo could be read of: c; the classifier does not have it."
    ]
    assert list(describe_lost(manifest, problems[:2])) == []
    [says] = describe_lost(manifest, problems)
    assert says == "No photo could be read of: a, c; the classifier does not have it."


def test_a_class_of_broken_photos_is_missed(few_digits: Path, cache: Path, tmp_path: Path) -> None:
    folder: Any = tmp_path / "photos"
    for path in few_digits.glob("[0-1]/*.png"):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(path).save(folder / path.parent.name / path.name)
    (folder / "hornet").mkdir()
    (folder / "hornet" / "a.jpg").write_bytes(b"this is no photo")
    classifier = ImageClassifier(recipe="probe").fit(folder)
    assert list(classifier.classes_) == ["0", "1"]
    assert any(each.startswith("No photo could be read of: hornet") for each in classifier.warnings)
