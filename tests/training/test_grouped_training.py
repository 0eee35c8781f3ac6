"""Groups through a whole training: near duplicates, named groups, the record, the folds."""

from __future__ import annotations

import io
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import ImageClassifier
from headstart.bundle import find_bundle
from headstart.data.scan import scan_folder
from headstart.errors import DatasetError
from headstart.training import fit

CLASSES, PHOTOS = ("dark", "light"), 12


def make_photo(seed: int, is_light: bool) -> Image.Image:
    """Coloured clouds that a network can tell apart; light ones are light."""
    generator = np.random.default_rng(seed)
    channels = []
    for _ in range(3):
        total = np.zeros((120, 160))
        for cells in (2, 3, 6, 12):
            noise = Image.fromarray(generator.normal(size=(cells, cells)).astype(np.float32))
            total += np.asarray(noise.resize((160, 120), Image.Resampling.BICUBIC)) / cells**0.3
        channels.append((total - total.min()) / np.ptp(total) * 150 + 100 * is_light)
    return Image.fromarray(np.round(np.stack(channels, -1)).astype(np.uint8))


def encode(image: Image.Image, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def write(folder: Path, name: str, number: int, quality: int = 90, seed: int = 0) -> Path:
    path = folder / name / f"p{number}_{quality}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    is_light = name == "light"
    path.write_bytes(encode(make_photo(seed + number + 1000 * is_light, is_light), quality))
    return path


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in CLASSES:
        for number in range(PHOTOS):
            write(folder, name, number)
    return folder


@pytest.fixture
def photos(originals: Path, tmp_path: Path) -> Path:
    return shutil.copytree(originals, tmp_path / "photos")


def sides(classifier: ImageClassifier, folder: Path) -> dict[str, str]:
    """Path within the folder → side, of the photos whose digests the bundle lists."""
    split = classifier.bundle.manifest["split"]
    side_of = {
        digest: side for side in ("train", "validation", "test", "unused") for digest in split[side]
    }
    samples = scan_folder(folder).samples
    return {s.path.relative_to(folder).as_posix(): side_of[s.digest] for s in samples}


def test_near_duplicates_are_on_one_side_and_in_one_fold(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CLASSES:
        for number in range(PHOTOS):
            write(photos, name, number, quality=88)
    seen: list[Any] = []
    list_folds = fit.list_folds

    def watched(labels: Any, groups: Any, *rest: Any) -> Any:
        seen.append((labels, groups))
        return list_folds(labels, groups, *rest)

    monkeypatch.setattr(fit, "list_folds", watched)
    classifier = ImageClassifier().fit(photos)
    found = sides(classifier, photos)
    assert {side for side in found.values()} == {"train", "test"}
    for name in CLASSES:
        for number in range(PHOTOS):
            both = {found[f"{name}/p{number}_{quality}.jpg"] for quality in (88, 90)}
            assert len(both) == 1, (name, number)
    [(labels, groups)] = seen
    assert len(labels) == 2 * len(set(groups))
    assert classifier.bundle.manifest["split"]["groups"] != []


def test_photos_of_a_named_group_are_on_one_side(originals: Path) -> None:
    def people(classifier: ImageClassifier) -> dict[str, set[str]]:
        found = defaultdict(set)
        for path, side in sides(classifier, originals).items():
            found[path.split("/p")[1].split("_")[0]].add(side)
        return found

    plain = people(ImageClassifier().fit(originals))
    assert max(map(len, plain.values())) == 2  # else the next line shows nothing
    grouped = people(ImageClassifier(group_by="/p([0-9]+)_").fit(originals))
    assert len(grouped) == PHOTOS
    assert {len(found) for found in grouped.values()} == {1}
    assert set.union(*grouped.values()) == {"train", "test"}


def test_a_column_names_groups(originals: Path, tmp_path: Path) -> None:
    rows = ["path,label,who,group"]
    for path in sorted(originals.rglob("*.jpg")):
        person = int(path.stem.split("_")[0][1:])
        rows.append(f"{path},{path.parent.name},{person},{person % 6}")
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(rows))
    for column, count in (("who", PHOTOS), (None, 6)):
        classifier = ImageClassifier(group_by=column).fit(table)
        groups = classifier.bundle.manifest["split"]["groups"]
        assert len(groups) == count


@pytest.mark.parametrize("by", ["p(", "no such column"])
def test_what_fits_nothing_is_refused_before_any_work(
    by: str, originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "FirstPass", lambda *_, **__: 1 / 0)
    source: Path = originals
    if "column" in by:
        source = tmp_path / "photos.csv"
        source.write_text("path,label\na.jpg,cat\n")
    with pytest.raises(DatasetError, match=r"regular expression|no column"):
        ImageClassifier(group_by=by).fit(source)


def test_lists_of_paths_have_groups_and_photos_in_memory_have_none(originals: Path) -> None:
    paths = sorted(originals.rglob("*.jpg"))
    labels = [path.parent.name for path in paths]
    classifier = ImageClassifier(group_by="p([0-9]+)_").fit(paths, labels)
    assert len(classifier.bundle.manifest["split"]["groups"]) == PHOTOS
    with pytest.raises(DatasetError, match="looks for groups in paths, and photo 0 is bytes"):
        ImageClassifier(group_by="p").fit([path.read_bytes() for path in paths], labels)


def test_an_earlier_bundle_hands_its_test_photos_on(photos: Path) -> None:
    first = ImageClassifier().fit(photos)
    before = sides(first, photos)
    for name in CLASSES:
        for number in range(PHOTOS):
            write(photos, name, number, quality=88)
            write(photos, name, number + 100)
    second = ImageClassifier().fit(photos, earlier=first.bundle)
    after = sides(second, photos)
    assert {path: after[path] for path in before} == before
    for path, side in before.items():
        assert after[path.replace("_90", "_88")] == side
    assert set(after.values()) == {"train", "test"}


def test_what_a_merged_group_sets_aside_is_a_problem_with_the_reason(
    originals: Path, tmp_path: Path
) -> None:
    first = ImageClassifier().fit(originals)
    found = sides(first, originals)
    tested = next(path for path, side in found.items() if side == "test")
    trained = next(path for path, side in found.items() if side == "train")
    rows = [
        f"{originals / path},{path.split('/')[0]},{'x' * (path in (tested, trained))}"
        for path in found
    ]
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(["path,label,group", *rows]))
    merged = ImageClassifier().fit(table, earlier=first.bundle)
    [problem] = merged.problems
    assert problem.path == originals / trained
    assert f"one group with its test photo {originals / tested}" in problem.reason
    assert sides(merged, originals) == {**found, trained: "unused"}


def test_when_all_training_photos_are_set_aside_it_says_what_to_do(originals: Path) -> None:
    first = ImageClassifier().fit(originals)
    with pytest.raises(DatasetError, match=r"set aside.*another seed"):
        ImageClassifier(group_by="(?<=/)p").fit(originals, earlier=first.bundle)


def test_overwriting_a_bundle_goes_on_with_its_split(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.headstart"
    assert find_bundle(path) is None
    path.write_bytes(b"no bundle")
    assert find_bundle(path) is None
    first = ImageClassifier().fit(photos)
    first.save(path, force=True)
    bundle = find_bundle(path)
    assert bundle is not None
    assert bundle.manifest["split"] == first.bundle.manifest["split"]


def test_near_duplicates_across_given_sides_are_listed_and_not_moved(
    originals: Path, tmp_path: Path
) -> None:
    root = tmp_path / "photos"
    shutil.copytree(originals, root / "train")
    for name in CLASSES:
        for number in range(3):
            write(root / "test", name, number + 50)
    write(root / "test", "dark", 4, quality=88)
    shutil.copy(root / "train" / "light" / "p5_90.jpg", root / "test" / "light" / "same.jpg")
    classifier = ImageClassifier().fit(root)
    [near] = [text for text in classifier.warnings if "near duplicates" in text]
    assert near.startswith("1 pair of")
    assert "train/dark/p4_90.jpg" in near
    assert "test/dark/p4_88.jpg" in near
    [same] = [text for text in classifier.warnings if "same bytes" in text]
    assert "train/light/p5_90.jpg" in same
    found = sides(classifier, root)
    assert found["test/dark/p4_88.jpg"] == "test"
    assert found["train/dark/p4_90.jpg"] == "train"
    assert classifier.evaluation is not None
    assert classifier.evaluation.photos == 8


def test_a_class_of_one_burst_is_trained_and_the_others_are_still_validated(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    list_folds = fit.list_folds
    monkeypatch.setattr(
        fit, "list_folds", lambda *rest: counts.append(rest[2]) or list_folds(*rest)
    )
    for path in (photos / "dark").iterdir():
        path.unlink()
    for quality in (40, 50, 60, 70, 80, 90):
        write(photos, "dark", 1, quality=quality)
    classifier = ImageClassifier().fit(photos)
    found = sides(classifier, photos)
    assert {side for path, side in found.items() if path.startswith("dark")} == {"train"}
    assert any("No test photos of: dark" in text for text in classifier.warnings)
    assert len(classifier.bundle.manifest["strengths"]) > 1
    assert counts == [5]


def test_when_nothing_can_be_tested_it_is_said(originals: Path) -> None:
    classifier = ImageClassifier(group_by="^[^/]+").fit(originals)
    assert classifier.evaluation is None
    [text] = [text for text in classifier.warnings if "set aside for a test" in text]
    assert "fewer than three groups" in text
    assert classifier.bundle.manifest["strengths"] == []
