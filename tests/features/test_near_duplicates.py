"""The near-duplicate pass over features: what it finds, and that it looks at no pair twice."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.data.duplicates import Pair
from headstart.data.labelled import scan_labelled
from headstart.data.scan import scan_folder
from headstart.features import near_duplicates
from headstart.features.cache import ActivationCache
from headstart.features.extract import Features
from headstart.features.maintenance import describe_cache, verify_cache
from headstart.features.near_duplicates import find_pairs


def make_photo(seed: int) -> Image.Image:
    generator = np.random.default_rng(seed)
    total = np.zeros((96, 128))
    for cells in (4, 8, 16, 32):
        noise = Image.fromarray(generator.normal(size=(cells, cells)).astype(np.float32))
        total += np.asarray(noise.resize((128, 96), Image.Resampling.BICUBIC)) / cells**0.5
    scaled = np.round((total - total.min()) / np.ptp(total) * 255).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def encode(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def make_features(samples: Any) -> Features:
    """Photos that are called alike are near each other."""
    rows = []
    for sample in samples:
        number = int(sample.path.name.split("_")[0])
        own = np.random.default_rng(int(sample.digest[:8], 16)).normal(size=64) * 0.05
        rows.append(np.random.default_rng(number).normal(size=64) + own)
    return wrap(np.array(rows, np.float16), samples)


def wrap(rows: np.ndarray, samples: Any) -> Features:
    return Features(tuple(samples), (), (), 0, {}, 0.0, "test", rows.shape[1:], rows)


@pytest.fixture
def photos(tmp_path: Path, empty_cache: Path) -> Path:
    folder = tmp_path / "photos" / "class"
    folder.mkdir(parents=True)
    for number in range(6):
        (folder / f"{number}_a.jpg").write_bytes(encode(make_photo(number), 90))
    (folder / "2_b.jpg").write_bytes(encode(make_photo(2), 40))
    (folder / "3_b.jpg").write_bytes(encode(make_photo(33), 90))  # near, but another photo
    return folder.parent


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that the pass opens."""
    opened: list[Path] = []
    read = near_duplicates._Comparison._load

    def load(self: Any, row: int) -> Any:
        opened.append(self._samples[row].path.name)
        return read(self, row)

    monkeypatch.setattr(near_duplicates._Comparison, "_load", load)
    return opened


def shown(features: Features, pairs: list[Pair]) -> list[tuple[str, str, str]]:
    name = [sample.path.name for sample in features.samples]
    return [(name[pair.row], name[pair.other], pair.kind) for pair in pairs]


def test_a_second_pass_opens_no_photo(photos: Path, looks: list[Path]) -> None:
    features = make_features(scan_folder(photos).samples)
    first = find_pairs(features)
    assert shown(features, first) == [("2_a.jpg", "2_b.jpg", "copy")]
    assert set(looks) == {"2_a.jpg", "2_b.jpg", "3_a.jpg", "3_b.jpg"}
    looks.clear()
    for path in photos.glob("*/*"):
        path.unlink()
    assert find_pairs(features) == first
    assert looks == []


def test_new_photos_are_compared_with_their_own_neighbours_only(
    photos: Path, looks: list[Path]
) -> None:
    find_pairs(make_features(scan_folder(photos).samples))
    looks.clear()
    (photos / "class" / "5_c.jpg").write_bytes(encode(make_photo(5), 50))
    features = make_features(scan_folder(photos).samples)
    assert shown(features, find_pairs(features))[1:] == [("5_a.jpg", "5_c.jpg", "copy")]
    assert set(looks) == {"5_a.jpg", "5_c.jpg"}


def test_what_cannot_be_read_is_tried_again(photos: Path, looks: list[Path]) -> None:
    features = make_features(scan_folder(photos).samples)
    path = photos / "class" / "2_b.jpg"
    content = path.read_bytes()
    path.write_bytes(content + b"changed since the scan")
    assert find_pairs(features) == []
    path.write_bytes(content)
    looks.clear()
    assert len(find_pairs(features)) == 1
    assert set(looks) == {"2_a.jpg", "2_b.jpg"}


def test_of_what_cannot_be_read_nothing_is_kept(photos: Path, empty_cache: Path) -> None:
    features = make_features(scan_folder(photos).samples)
    for path in photos.glob("*/*"):
        path.unlink()
    assert find_pairs(features) == []
    assert list(empty_cache.glob("activations-*/*.npy")) == []


def test_a_pair_that_was_given_up_is_looked_at_again_by_who_wants_its_correlation(
    photos: Path,
) -> None:
    samples = scan_folder(photos).samples
    with contextlib.closing(ActivationCache(near_duplicates._SPACE)) as cache:
        comparison = near_duplicates._Comparison(samples, cache)
        pairs = np.array([[0, 1]], np.intp)
        assert comparison.compare(pairs, 0.75).max() == -1
        assert comparison.compare(pairs, -1.0).min() > -1
        assert comparison.compare(pairs, 0.75).max() == -1


def test_a_damaged_shard_costs_a_second_look(photos: Path, looks: list[Path]) -> None:
    features = make_features(scan_folder(photos).samples)
    first = find_pairs(features)
    [space] = describe_cache()
    assert (space["backbone"], space["photos"]) == ("near duplicates", 2)
    [shard] = (photos.parent / "empty-cache").glob("activations-*/*.npy")
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    looks.clear()
    assert find_pairs(features) == first
    assert len(set(looks)) == 4
    assert verify_cache().damaged == ()


def test_nothing_is_written_when_there_is_nothing_to_compare(empty_cache: Path) -> None:
    samples = scan_labelled([b"a", b"b"], ["x", "y"]).samples
    rows = np.eye(2, 8, dtype=np.float16)
    assert find_pairs(wrap(rows, samples)) == []
    assert list(empty_cache.glob("activations-*/*.npy")) == []


def test_photos_in_memory(empty_cache: Path) -> None:
    photo = make_photo(0)
    contents = [photo, encode(photo, 40), np.asarray(photo.transpose(Image.Transpose(0)))]
    samples = scan_labelled(contents, ["x"] * 3).samples
    rows = np.ones((3, 8), np.float16) + np.eye(3, 8, dtype=np.float16) * 0.1
    pairs = find_pairs(wrap(rows, samples))
    assert [(p.row, p.other, p.kind) for p in pairs] == [
        (0, 1, "copy"),
        (0, 2, "mirrored"),
        (1, 2, "mirrored"),
    ]
