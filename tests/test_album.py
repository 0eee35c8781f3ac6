"""Thumbnails in a bundle: kept where asked for, shown beside answers, safe whoever made them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart
from headstart.album import MOST_BYTES, Album, parse_album
from headstart.bundle import REFERENCES, THUMBNAILS, dump_arrays, parse_arrays, save_bundle
from headstart.data.thumbnails import make_thumbnail
from headstart.errors import BundleError
from headstart.predictor import Predictor

JPEG = b"\xff\xd8\xff"


@pytest.fixture(scope="module")
def kept(digits_folder: Path, cache: Path) -> Any:
    return headstart.ImageClassifier(keep_thumbnails=True).fit(digits_folder)


def test_nothing_is_kept_unless_asked_for(trained: Any, kept: Any) -> None:
    assert THUMBNAILS not in trained.bundle.members
    assert trained.predictor.album is None
    photo = np.full((80, 80, 3), 200, np.uint8)
    (found,) = trained.predictor.predict([photo])
    assert found.similar == ()
    (also,) = kept.predictor.predict([photo])
    assert len(also.similar) == 3
    np.testing.assert_array_equal(also.probabilities, found.probabilities)
    assert also.novelty == found.novelty


@pytest.mark.parametrize("views", [1, 2])
def test_a_training_photo_is_most_similar_to_itself(
    kept: Any, digits_folder: Path, tmp_path: Path, views: int
) -> None:
    predictor = Predictor(kept.save(tmp_path / "a.headstart"), views=views)
    assert predictor.album is not None
    assert headstart.load(tmp_path / "a.headstart").keep_thumbnails
    rows = parse_arrays(kept.bundle.members[REFERENCES])["rows"]
    assert len(rows) == len(predictor.album.pictures) == len(predictor.album.labels)
    paths = sorted(digits_folder.glob("*/*.png"))[::4]
    album = predictor.album
    found = {path: said.similar for path, said in zip(paths, predictor.predict(paths), strict=True)}
    own = [path for path in paths if album.pictures[found[path][0]] == make_thumbnail(path)]
    assert len(own) > 10
    assert all(kept.classes_[album.labels[found[path][0]]] == path.parent.name for path in own)


def test_too_few_photos_are_said(few_digits: Path) -> None:
    found = headstart.ImageClassifier(keep_thumbnails=True).fit(few_digits)
    assert "No thumbnails were kept" in found.warnings[-1]


def test_thumbnails_have_no_metadata() -> None:
    image, stream = Image.new("RGB", (200, 100), "red"), io.BytesIO()
    exif = image.getexif()
    exif[0x010E] = "at home"
    image.save(stream, "JPEG", comment=b"at home", exif=exif)
    assert b"at home" in stream.getvalue()
    assert b"at home" not in make_thumbnail(stream.getvalue())


def arrays(**changed: Any) -> bytes:
    good = {
        "pictures": np.frombuffer(JPEG * 4, np.uint8),
        "ends": np.array([6, 12], np.int64),
        "labels": np.array([0, 1], np.int32),
    }
    return dump_arrays({k: v for k, v in {**good, **changed}.items() if v is not None})


def test_what_is_no_picture_is_not_shown() -> None:
    assert parse_album(arrays(), 2, 2) == Album((JPEG * 2, JPEG * 2), (0, 1))
    large = JPEG + bytes(MOST_BYTES)
    found = parse_album(Album([b"<svg onload=x>", large], [0, 1]).dump(), 2, 2)
    assert found.pictures == (b"", b"")


@pytest.mark.parametrize(
    "changed",
    [
        {"pictures": None},
        {"ends": None},
        {"labels": None},
        {"labels": np.array([0, 2], np.int32)},
        {"labels": np.array([-1, 0], np.int32)},
        {"labels": np.array([0.0, 1.0])},
        {"ends": np.array([6, 13], np.int64)},
        {"ends": np.array([7, 6], np.int64)},
        {"ends": np.array([-6, 6], np.int64)},
        {"ends": np.array([6, 9, 12], np.int64)},
        {"ends": np.array([2**62, -(2**62)], np.int64)},
        {"pictures": np.zeros((4, 3), np.uint8)},
    ],
)
def test_hostile_albums_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="no usable pictures"):
        parse_album(arrays(**changed), 2, 2)


def test_a_bundle_with_a_hostile_album_is_refused(trained: Any, tmp_path: Path) -> None:
    members = {**trained.bundle.members, THUMBNAILS: arrays()}
    save_bundle(tmp_path / "a.headstart", trained.bundle.manifest, members)
    with pytest.raises(BundleError, match=r"a\.headstart is damaged: thumbnails"):
        Predictor(tmp_path / "a.headstart")


def test_the_server_shows_similar_photos_where_asked(
    kept: Any, trained: Any, digits_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from headstart.server.app import create_app
    from headstart.server.registry import Registry
    from headstart.server.settings import Settings

    paths = [c.save(tmp_path / f"{n}.headstart") for n, c in (("with", kept), ("without", trained))]
    path = digits_folder / "2" / "003.png"
    (said,) = kept.predictor.predict([path])
    with TestClient(create_app(Registry(paths, Settings()))) as client:

        def ask(query: str) -> dict[str, Any]:
            form = {"file": ("a.png", path.read_bytes())}
            return client.post(f"/predict?{query}", files=form).json()["results"][0]

        assert "similar" not in ask("model=with")
        assert ask("model=without&similar=true")["similar"] == []
        found = ask("model=with&similar=true")["similar"]
        wrong = client.post("/predict?model=with&similar=perhaps")
        assert wrong.status_code == 400
        assert "similar" in wrong.json()["error"]
    for each, number in zip(found, said.similar, strict=True):
        head, _, data = each["picture"].partition(",")
        assert head == "data:image/jpeg;base64"
        assert base64.b64decode(data) == kept.predictor.album.pictures[number]
        assert each["label"] == kept.classes_[kept.predictor.album.labels[number]]
