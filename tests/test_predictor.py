"""Prediction from a bundle: whatever a photo is given as, and whatever is wrong with it."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.bundle import GRAPH, MANIFEST, Bundle, load_bundle, save_bundle
from headstart.data.decode import DECODE_VERSION
from headstart.errors import BundleError, HeadstartError
from headstart.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(trained_bundle: Path) -> Predictor:
    return Predictor(trained_bundle)


@pytest.fixture(scope="module")
def paths(digits_folder: Path) -> list[Path]:
    return sorted(digits_folder.glob("*/*.png"))


def test_equal_pixels_give_equal_probabilities(predictor: Predictor, paths: list[Path]) -> None:
    path = paths[25]
    with Image.open(path) as image:
        array = np.asarray(image)
        forms = [path, str(path), path.read_bytes(), image.copy(), array, np.dstack([array] * 3)]
        lazy = predictor.predict_proba([Image.open(path)])[0]
    rows = predictor.predict_proba(forms)
    assert rows.shape == (6, 4)
    assert all(np.array_equal(row, rows[0]) for row in [*rows, lazy])
    assert rows[0].sum() == pytest.approx(1, abs=1e-6)


def test_a_prediction_says_what_it_is_of(predictor: Predictor, paths: list[Path]) -> None:
    found = list(predictor.predict(paths[::7]))
    assert [prediction.item for prediction in found] == paths[::7]
    for prediction in found:
        assert prediction.problem is None
        assert prediction.label in predictor.class_names
        best = int(prediction.probabilities.argmax())
        assert prediction.label == predictor.class_names[best]
        assert prediction.probability == prediction.probabilities[best]


def test_most_digits_are_told_apart(predictor: Predictor, paths: list[Path]) -> None:
    found = predictor.predict(paths)
    right = [prediction.label == prediction.item.parent.name for prediction in found]
    assert sum(right) >= 72  # of 80, most of which it was trained on


def test_a_photo_does_not_depend_on_its_neighbours(predictor: Predictor, paths: list[Path]) -> None:
    together = predictor.predict_proba(paths[:19])
    alone = np.vstack([predictor.predict_proba([path]) for path in paths[:19:6]])
    assert np.abs(together[::6] - alone).max() < 1e-5


def test_what_cannot_be_read_is_a_row_with_the_reason(
    predictor: Predictor, paths: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 not really")
    items: list[Any] = [
        paths[0],
        broken,
        tmp_path / "missing.jpg",
        b"",
        np.zeros((4, 4), float),
        tmp_path,
        paths[1],
    ]
    found = list(predictor.predict(items))
    assert len(found) == len(items)
    assert all(a.item is b for a, b in zip(found, items, strict=True))
    good = [found[0], found[-1]]
    assert all(prediction.problem is None and prediction.label for prediction in good)
    for prediction in found[1:-1]:
        assert prediction.problem
        assert "Traceback" not in prediction.problem
        assert prediction.label == ""
        assert prediction.probability == 0
        assert prediction.probabilities.shape == (0,)
    assert "uint8" in (found[4].problem or "")
    rows = predictor.predict_proba(items)
    assert np.isnan(rows).any(1).tolist() == [False, True, True, True, True, True, False]
    assert np.array_equal(rows[-1], found[-1].probabilities)


def test_predictions_come_while_later_photos_are_not_read_yet(
    predictor: Predictor, paths: list[Path]
) -> None:
    given = 0

    def endless() -> Any:
        nonlocal given
        while True:
            given += 1
            yield paths[given % len(paths)]

    stream = predictor.predict(endless())
    first = [next(stream) for _ in range(20)]
    stream.close()  # type: ignore[attr-defined]
    assert all(prediction.problem is None for prediction in first)
    assert given < 400


def test_no_photos_give_no_rows(predictor: Predictor) -> None:
    assert list(predictor.predict([])) == []
    assert predictor.predict_proba([]).shape == (0, 4)


def test_a_reader_of_ones_own(predictor: Predictor, paths: list[Path]) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writing:
        for number, path in enumerate(paths[:3]):
            writing.write(path, str(number))
    with zipfile.ZipFile(archive) as reading:
        found = list(predictor.predict(["0", "1", "2"], reading.read))
    expected = predictor.predict_proba(paths[:3])
    assert np.allclose([prediction.probabilities for prediction in found], expected, atol=1e-6)


# ---- bundles that cannot be used


def changed(bundle: Path, **changes: Any) -> Bundle:
    whole = load_bundle(bundle)
    return Bundle({**whole.manifest, **changes}, whole.members, bundle)


def test_another_decoder_is_refused(trained_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"trained with version \d+ of the photo decoder"):
        Predictor(changed(trained_bundle, decode_version=DECODE_VERSION + 1))


def test_a_graph_that_does_not_fit_the_manifest_is_refused(
    trained_bundle: Path, paths: list[Path]
) -> None:
    with pytest.raises(BundleError, match=r"cannot compute photos \(1, 96, 96, 3\)"):
        Predictor(changed(trained_bundle, image_size=96)).predict_proba(paths[:1])
    with pytest.raises(BundleError, match=r"gives \(4,\) probabilities for 2 classes"):
        Predictor(changed(trained_bundle, class_names=["a", "b"])).predict_proba(paths[:1])


def test_a_bundle_without_a_graph_is_refused_when_it_is_opened(
    trained_bundle: Path, tmp_path: Path
) -> None:
    whole = load_bundle(trained_bundle)
    path = tmp_path / "bad.headstart"
    save_bundle(path, dict(whole.manifest), {**whole.members, GRAPH: b"no graph"})
    with pytest.raises(BundleError, match="The graph is refused"):
        Predictor(path)


def test_a_folder_predicts_as_the_file_does(
    trained_bundle: Path, predictor: Predictor, paths: list[Path], tmp_path: Path
) -> None:
    shutil.unpack_archive(trained_bundle, tmp_path / "unpacked", "zip")
    assert json.loads((tmp_path / "unpacked" / MANIFEST).read_text())["format"] == 1
    rows = Predictor(tmp_path / "unpacked").predict_proba(paths[:4])
    assert np.array_equal(rows, predictor.predict_proba(paths[:4]))


def test_views_are_averaged(predictor: Predictor, trained_bundle: Path, paths: list[Path]) -> None:
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths[:5]]
    plain = predictor.predict_proba(pixels)
    mirrored = predictor.predict_proba([image[:, ::-1] for image in pixels])
    two = Predictor(trained_bundle, views=2).predict_proba(pixels)
    np.testing.assert_allclose(two, (plain + mirrored) / 2, atol=1e-5)
    more = Predictor(trained_bundle, views=4)
    four = more.predict_proba(pixels)
    assert np.abs(four - two).max() > 1e-4
    np.testing.assert_allclose(four.sum(1), 1, atol=1e-5)
    assert np.array_equal(four, more.predict_proba(pixels))
    assert next(iter(more.predict([b"no photo"]))).problem


@pytest.mark.parametrize("views", [0, 65, 1.5, "2"])
def test_other_numbers_of_views_are_refused(trained_bundle: Path, views: object) -> None:
    with pytest.raises(HeadstartError, match="accepted are whole numbers from 1 to 64"):
        Predictor(trained_bundle, views=views)  # type: ignore[arg-type]
