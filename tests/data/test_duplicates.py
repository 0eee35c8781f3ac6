"""Near duplicates: copies are found, look-alikes are not, in whatever order the photos come."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from headstart.data import duplicates
from headstart.data.duplicates import (
    Pair,
    find_near_duplicates,
    group_photos,
    join_groups,
    propose_pairs,
)
from headstart.data.registration import (
    THUMBNAIL_SIDE,
    compare_photos,
    read_thumbnail,
    register_pairs,
)
from headstart.errors import UnreadablePhotoError


def make_texture(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Clouds of several sizes, like a photo: neighbouring pixels are alike."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for cells in (4, 8, 16, 32, 64):
        noise = Image.fromarray(generator.normal(size=(cells, cells)).astype(np.float32))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) / cells**0.5
    total = (total - total.min()) / np.ptp(total)
    return Image.fromarray(np.round(total * 255).astype(np.uint8)).convert("RGB")


def encode(image: Image.Image, quality: int = 90, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, **options)
    return stream.getvalue()


def crop(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return image.crop(tuple(round(edge) for edge in box))


def near(*groups: int) -> np.ndarray:
    """Features: photos with the same number are near each other, all others are not."""
    generator = np.random.default_rng(0)
    centres = {group: generator.normal(size=64) for group in sorted(set(groups))}
    return np.stack([centres[group] + generator.normal(size=64) * 0.05 for group in groups])


def normalise(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def find(contents: Sequence[bytes], features: np.ndarray | None = None) -> list[Pair]:
    """Near duplicates among photos that the network holds for the same, if nothing is said."""
    features = near(*[0] * len(contents)) if features is None else features
    return find_near_duplicates(features, looking_at(lambda row: read_thumbnail(contents[row])))


def looking_at(load: Callable[[int], Any]) -> duplicates.Compare:
    return lambda pairs, floor: compare_photos(pairs, load, floor)


WAYS: dict[str, Callable[[Image.Image], bytes]] = {
    "recompressed": lambda image: encode(image, 30),
    "resized": lambda image: encode(image.resize((160, 120))),
    "enlarged": lambda image: encode(image.resize((700, 525))),
    "stretched": lambda image: encode(image.resize((320, 200))),
    "brighter": lambda image: encode(image.point(lambda value: value * 0.8 + 40)),
    "grey": lambda image: encode(image.convert("L")),
    "cropped at a corner": lambda image: encode(crop(image, 0.1, 0.1, 0, 0)),
    "cropped at one side": lambda image: encode(crop(image, 0, 0, 0, 0.1)),
    "cropped all around": lambda image: encode(crop(image, 0.05, 0.05, 0.05, 0.05)),
}


@pytest.mark.parametrize("way", WAYS)
def test_copies_are_found(way):
    contents = [encode(make_texture(seed)) for seed in range(4)]
    contents.append(WAYS[way](make_texture(2)))
    found = find(contents)
    assert [(pair.row, pair.other, pair.kind) for pair in found] == [(2, 4, "copy")]
    assert found[0].correlation > 0.9


def test_mirrored_copies_are_found():
    contents = [encode(make_texture(seed)) for seed in range(4)]
    contents.append(encode(ImageOps.mirror(crop(make_texture(1), 0.03, 0.0, 0.04, 0.05)), 60))
    assert [(p.row, p.other, p.kind) for p in find(contents)] == [(1, 4, "mirrored")]


def test_different_textures_are_no_duplicates():
    assert find([encode(make_texture(seed)) for seed in range(12)]) == []


def test_what_the_network_tells_apart_is_not_compared():
    contents = [encode(make_texture(0)), encode(make_texture(0), 60)]
    assert find(contents, near(0, 1)) == []


def test_the_same_outline_before_another_ground_is_no_duplicate():
    """Two garments photographed alike: dark and in the middle, of other cloth, on another floor."""
    outline = np.zeros((240, 320), bool)
    outline[40:200, 90:230] = True
    contents = []
    for seed in range(6):
        ground = np.asarray(make_texture(seed).convert("L")) // 3 + 150
        cloth = np.asarray(make_texture(seed + 50).convert("L")) // 3
        contents.append(encode(Image.fromarray(np.where(outline, cloth, ground).astype(np.uint8))))
    assert find(contents) == []


def test_a_burst_needs_features_that_are_unusually_alike():
    """Something has moved in the picture: a burst to a network that sees the same, else nothing."""
    moved = np.array(make_texture(0))
    moved[60:200, 80:] = np.roll(moved, 10, axis=1)[60:200, 80:]
    moved = Image.fromarray(moved)
    contents = [encode(make_texture(seed)) for seed in range(8)] + [encode(moved)]
    thumbnails = [read_thumbnail(content).astype(np.float32)[None] for content in contents]
    assert 0.6 < register_pairs(thumbnails[0], thumbnails[8])[0] < 0.72
    features = near(*range(8), 0)
    assert [(p.row, p.other, p.kind) for p in find(contents, features)] == [(0, 8, "burst")]
    features[8] += np.random.default_rng(1).normal(size=64) * 0.7
    assert 0.65 < propose_pairs(normalise(features))[1].max() < 0.9
    assert find(contents, features) == []


def test_where_everything_lines_up_nothing_is_said():
    """Views of a fixed camera, or handwritten digits: strangers line up as well as copies do."""
    scene = np.asarray(make_texture(0), float)
    contents = []
    for seed in range(40):
        visitor = np.asarray(make_texture(seed + 1), float)
        contents.append(encode(Image.fromarray((0.8 * scene + 0.2 * visitor).astype(np.uint8))))
    assert find(contents) == []


def test_blank_photos_are_no_copies_of_others():
    contents = [encode(Image.new("RGB", (200, 100), colour)) for colour in ("black", "white")]
    assert find([*contents, encode(make_texture(0))]) == []


def test_equal_features_are_the_same_without_a_look():
    features = np.vstack([near(0, 1), near(0, 1)])

    def refuse(row: int) -> Any:
        raise AssertionError(row)

    kinds = [
        (pair.row, pair.other, pair.kind)
        for pair in find_near_duplicates(features, looking_at(refuse))
    ]
    assert kinds == [(0, 2, "same"), (1, 3, "same")]


def test_many_exact_copies_do_not_hide_another_one():
    contents = [encode(make_texture(0))] * 8 + [encode(make_texture(0), 50)]
    features = near(0, 1)
    groups = group_photos(["a"] * 8 + ["b"], find(contents, features[[0] * 8 + [0]] + near(0)[0]))
    assert set(groups) == {"a"}
    features = np.vstack([np.repeat(near(0), 8, 0), near(0, 0)[1:]])
    assert {(p.row, p.other) for p in find(contents, features) if p.kind == "copy"} == {(0, 8)}


@pytest.mark.parametrize("error", [UnreadablePhotoError("damaged"), FileNotFoundError("gone")])
def test_what_cannot_be_read_has_no_near_duplicates(error):
    contents = [encode(make_texture(0)), encode(make_texture(0), 60), encode(make_texture(0), 50)]

    def load(row: int) -> Any:
        if row == 1:
            raise error
        return read_thumbnail(contents[row])

    found = find_near_duplicates(near(0, 0, 0), looking_at(load))
    assert [(pair.row, pair.other) for pair in found] == [(0, 2)]


def test_a_few_confirmed_pairs_need_no_second_opinion_and_many_do(monkeypatch):
    """Whether all photos line up is asked only where that could matter."""
    asked = []
    monkeypatch.setattr(duplicates, "_are_all_alike", lambda *_: asked.append(1) or True)
    photos = [make_texture(seed) for seed in range(12)]
    contents = [encode(photo) for photo in photos] + [encode(photos[0], 50)]
    lone = near(*range(12), 0)
    monkeypatch.setattr(duplicates, "_MANY_CONFIRMED", 0.5)
    assert len(find(contents, lone)) == 1
    assert not asked
    monkeypatch.setattr(duplicates, "_MANY_CONFIRMED", 0.02)
    assert find(contents, lone) == []
    assert len(asked) == 1
    assert find(contents) == []  # everybody is proposed: asked at once
    assert len(asked) == 2


@pytest.mark.parametrize(("usual", "kept"), [(0.4, False), (0.9, True)])
def test_a_crowd_that_lines_up_without_being_copies_is_left_out(usual, kept):
    """Digits among photos; a burst of as many photos stays."""
    crowd, lone, copies = range(130), range(130, 700), (700, 701)
    features = near(*[0] * len(crowd), *range(1, len(lone) + 1), 900, 900)

    def compare(pairs: np.ndarray, floor: float) -> np.ndarray:
        correlations = []
        for row, other in pairs.tolist():
            within = row in crowd and other in crowd
            chance = (row + other) % 4 == 0  # every fourth pair of the crowd looks like a copy
            are_copies = {row, other} == set(copies)
            plain = (0.9 if chance else usual) if within else 0.95 if are_copies else 0.1
            correlations.append((plain, 0.0))
        return np.array(correlations, np.float32).reshape(-1, 2)

    found = [(pair.row, pair.other) for pair in find_near_duplicates(features, compare)]
    assert copies in found
    assert any(row in crowd for row, _ in found) == kept


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_photos_for_a_pair(count):
    assert find_near_duplicates(np.ones((count, 8)), looking_at(lambda row: 1 / 0)) == []


@pytest.fixture(scope="module")
def mixed() -> tuple[list[bytes], np.ndarray]:
    """Three photos, two with a copy, one of these with two."""
    photos = [make_texture(seed) for seed in range(3)]
    contents = [encode(photo) for photo in photos]
    contents += [encode(photos[0], 40), encode(crop(photos[1], 0.05, 0, 0.02, 0.06))]
    contents += [encode(ImageOps.mirror(photos[1]))]
    return contents, near(0, 0, 0, 0, 0, 0)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(6)))
def test_groups_do_not_depend_on_the_order_of_the_photos(mixed, order):
    contents, features = mixed
    digests = np.array(list("abcdef"))[list(order)]
    found = find([contents[row] for row in order], features[list(order)])
    groups = group_photos(list(digests), found)
    expected = {"a": "a", "b": "b", "c": "c", "d": "a", "e": "b", "f": "b"}
    assert dict(zip(digests.tolist(), groups, strict=True)) == expected
    assert all(pair.row < pair.other for pair in found)


@settings(max_examples=50, deadline=None)
@given(
    names=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12),
    data=st.data(),
)
def test_groups_are_the_connected_parts(names, data):
    rows = st.integers(0, len(names) - 1)
    pairs = data.draw(st.lists(st.tuples(rows, rows), max_size=12))
    groups = join_groups(names, pairs)
    shuffled = data.draw(st.permutations([(other, row) for row, other in pairs]))
    assert join_groups(names, shuffled) == groups
    assert all(groups[row] == groups[other] for row, other in pairs)
    by_name = dict(zip(names, groups, strict=True))
    assert [by_name[name] for name in names] == groups
    assert all(by_name[group] == group <= name for name, group in by_name.items())
    # Each group is connected: its rows are reached from the first by equal names and pairs.
    for group in set(groups):
        reached = {group}
        for _ in names:
            for row, other in pairs:
                if {names[row], names[other]} & reached:
                    reached |= {names[row], names[other]}
        assert reached == {name for name in names if by_name[name] == group}


def make_features(count: int = 50) -> np.ndarray:
    """Rows of length 1, some in crowds, some alone, some with a copy."""
    generator = np.random.default_rng(0)
    crowds = generator.normal(size=(count // 25, 64)).repeat(25, 0) * 1.2
    features = generator.normal(size=(count, 64)) + crowds
    features[1::10] = features[::10] + generator.normal(size=(count // 10, 64)) * 0.3
    return normalise(features)


def expect_pairs(unit: np.ndarray) -> dict[tuple[int, int], float]:
    """What stands out, said plainly."""
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    expected = {}
    for row, near in enumerate(cosines):
        ordered = sorted(near.tolist(), reverse=True)
        limit = max(0.55, min(0.85, 1 - 0.65 * (1 - ordered[9])))
        for other in near.argsort()[-3:].tolist():
            if near[other] >= limit:
                expected[min(row, other), max(row, other)] = float(near[other])
    return expected


@pytest.mark.parametrize("block", [1, 7, 50, 64])
def test_what_stands_out_is_proposed(block):
    unit = make_features()
    expected = expect_pairs(unit)
    pairs, similarities = propose_pairs(unit.astype(np.float32), block)
    assert list(map(tuple, pairs.tolist())) == sorted(expected)
    np.testing.assert_allclose(similarities, [expected[key] for key in sorted(expected)], atol=1e-5)
    assert {(row, row + 1) for row in range(0, 50, 10)} <= set(expected)
    assert len(expected) < 25  # not the crowds


def test_a_long_burst_is_proposed_although_nobody_stands_out():
    unit = normalise(near(*[0] * 30, *range(1, 30)))
    pairs, _ = propose_pairs(unit.astype(np.float32))
    assert {tuple(pair) for pair in pairs.tolist()} == set(expect_pairs(unit))
    groups = join_groups([f"{row:03d}" for row in range(len(unit))], map(tuple, pairs.tolist()))
    assert set(groups[:30]) == {"000"}
    assert len(set(groups)) == 30


@pytest.mark.parametrize(("cosine", "count"), [(0.5, 0), (0.6, 1)])
def test_what_is_far_is_not_proposed_among_few_photos_either(cosine, count):
    unit = np.eye(4, 8, dtype=np.float32)
    unit[1, :2] = cosine, (1 - cosine**2) ** 0.5
    assert len(propose_pairs(unit)[0]) == count


def test_many_photos_are_looked_up_in_cells(monkeypatch):
    unit = make_features(600).astype(np.float32)
    exact = {tuple(pair) for pair in propose_pairs(unit)[0].tolist()}
    monkeypatch.setattr(duplicates, "_EXACT", 100)
    monkeypatch.setattr(duplicates, "_CELL", 50)
    rows = []
    list_cells = duplicates._list_cells

    def watched(*arguments: Any) -> Any:
        for asking, others in list_cells(*arguments):
            rows.extend(asking.tolist())
            assert set(asking) <= set(others)
            assert len(others) < 400
            yield asking, others

    monkeypatch.setattr(duplicates, "_list_cells", watched)
    found = {tuple(pair) for pair in propose_pairs(unit)[0].tolist()}
    assert sorted(rows) == list(range(600))  # everybody asks once
    copies = {(row, row + 1) for row in range(0, 600, 10)}
    assert copies <= exact
    assert len(copies & found) >= 0.95 * len(copies)


@settings(max_examples=20, deadline=None)
@given(
    left=st.floats(0, 0.1), right=st.floats(0, 0.1), top=st.floats(0, 0.1), bottom=st.floats(0, 0.1)
)
def test_registration_undoes_any_light_crop(left, right, top, bottom):
    width = max(left + right, 0.1) / 0.1
    height = max(top + bottom, 0.1) / 0.1
    photo = make_texture(3)
    cut = crop(photo, left / width, top / height, right / width, bottom / height)
    one, other = (read_thumbnail(image).astype(np.float32)[None] for image in (photo, cut))
    assert register_pairs(one, other)[0] > 0.9
    assert register_pairs(other, one)[0] > 0.9


def test_a_floor_gives_up_what_is_below_it():
    one, other = (read_thumbnail(make_texture(seed)).astype(np.float32)[None] for seed in (0, 1))
    assert register_pairs(one, other)[0] > -0.5
    assert register_pairs(one, other, floor=0.75)[0] == -1


class TestReadThumbnail:
    def test_whole_photo_upright_from_everything(self, tmp_path: Path):
        photo = make_texture(0)
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = encode(photo.transpose(Image.Transpose.ROTATE_90), exif=exif)
        (tmp_path / "a.jpg").write_bytes(turned)
        plain = read_thumbnail(photo).astype(float)
        for content in (turned, tmp_path / "a.jpg", Image.open(io.BytesIO(turned))):
            thumbnail = read_thumbnail(content)
            assert thumbnail.shape == (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
            assert thumbnail.dtype == np.uint8
            assert np.abs(thumbnail - plain).mean() < 3

    def test_sixteen_bits_are_not_clipped(self):
        grey = np.asarray(make_texture(0).convert("L"))
        stream = io.BytesIO()
        Image.fromarray(grey.astype(np.uint16) * 200 + 1000).save(stream, "PNG")
        one, other = read_thumbnail(stream.getvalue()), read_thumbnail(grey)
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99

    @pytest.mark.parametrize("content", [b"", b"no image", encode(make_texture(0))[:2000]])
    def test_a_broken_photo_is_told(self, content):
        with pytest.raises(UnreadablePhotoError):
            read_thumbnail(content)

    def test_a_missing_file_is_told(self, tmp_path):
        with pytest.raises(UnreadablePhotoError):
            read_thumbnail(tmp_path / "none.jpg")


def test_real_photos_and_their_copies(photos_folder: Path):
    """Garments on the same wall are no duplicates; whatever the network says, pixels decide."""
    paths = sorted((photos_folder / "clothing" / "test" / "pants").iterdir())[:30]
    photos = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths]
    contents: list[Path | bytes] = [*paths]
    contents.append(encode(ImageOps.mirror(photos[0]), 50))
    contents.append(encode(crop(photos[1], 0.06, 0.02, 0.04, 0.08), 50))
    contents.append(encode(photos[2].resize((photos[2].width // 2, photos[2].height // 2)), 40))
    features = near(*range(30), 0, 1, 2) * 0.2 + near(99)  # all are neighbours
    found = find_near_duplicates(features, looking_at(lambda row: read_thumbnail(contents[row])))
    expected = [(0, 30, "mirrored"), (1, 31, "copy"), (2, 32, "copy")]
    assert [(pair.row, pair.other, pair.kind) for pair in found] == expected


def test_named_groups_join_photos_and_each_other():
    pairs = [Pair(1, 2, 0.9, 0.9, "copy")]
    named = ["anna", None, "bea", None, "anna", None]
    groups = group_photos(["a", "b", "c", "d", "e", "c"], pairs, named)
    assert groups == ["#anna", "#bea", "#bea", "d", "#anna", "#bea"]
    # A photo in two groups joins them.
    groups = group_photos(["a", "a", "b", "c"], [], ["anna", "bea", "bea", "anna"])
    assert groups == ["#anna"] * 4
    # A name that looks like a digest is a name.
    assert group_photos(["a", "b"], [], ["b", None]) == ["#b", "b"]
