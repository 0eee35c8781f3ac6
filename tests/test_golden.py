"""Bundles of earlier formats are read, and answer as they did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden.make_bundle import draw
from PIL import Image

import headstart
from headstart.bundle import FORMAT, load_bundle
from headstart.data.decode import DECODE_VERSION, square_image
from headstart.errors import ExportError
from headstart.explain import Explainer
from headstart.exports import Exporting
from headstart.predictor import Predictor

FOLDER = Path(__file__).parent / "golden"


def test_the_present_format_has_its_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.headstart")} == {
        "format1-small",  # of classification alone
        *(f"format{number}" for number in range(1, FORMAT + 1)),
    }


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.headstart")), ids=lambda path: path.stem)
def test_it_answers_as_it_did(path: Path) -> None:
    expected = json.loads(path.with_suffix(".json").read_text())
    found = list(Predictor(path).predict([draw(number) for number in range(100, 106)]))
    for said, answer in zip(found, expected, strict=True):
        assert said.label == answer["label"]
        np.testing.assert_allclose(said.probabilities, answer["probabilities"], atol=1e-4)
        assert list(said.prediction_set or ()) == answer["set"]
        assert said.is_sure == answer["is_sure"]
        assert said.novelty == pytest.approx(answer["novelty"], abs=1e-2)


def test_bundles_whose_decoder_cut_small_photos_still_do() -> None:
    earlier = load_bundle(FOLDER / "format1.headstart")
    assert earlier.manifest["decode_version"] == 2
    present = replace(earlier, manifest={**earlier.manifest, "decode_version": DECODE_VERSION})
    small = draw(100)[:20, :20]  # fewer pixels than the 24 of the network
    # What has the network's size is taken as it is, now.
    cut = square_image(Image.fromarray(small), 24, network_size=1)
    (said,) = Predictor(earlier).predict([small])
    of_cut, whole = Predictor(present).predict([cut, small])
    np.testing.assert_array_equal(said.probabilities, of_cut.probabilities)
    assert abs(said.probabilities - whole.probabilities).max() > 1e-4
    for bundle, size in ((earlier, 1), (present, 24)):
        (found,) = Explainer(bundle, method="occlusion").explain([small])
        assert found.network_size == size
        assert found.probability == pytest.approx(
            float((said if size == 1 else whole).probabilities.max()), abs=1e-5
        )
    with pytest.raises(ExportError, match=r"small photos were cut.*Train it again"):
        Exporting(earlier, photos=[])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.headstart")), ids=lambda path: path.stem)
def test_its_record_is_read(path: Path) -> None:
    classifier = headstart.load(path)
    assert classifier.evaluation is not None
    assert classifier.evaluation.photos >= 10
    assert classifier.classes_.tolist() == ["disc, ölig", "square"]
