"""Bundles of earlier formats are read, and answer as they did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from golden.make_bundle import draw

import headstart
from headstart.bundle import FORMAT
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


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.headstart")), ids=lambda path: path.stem)
def test_its_record_is_read(path: Path) -> None:
    classifier = headstart.load(path)
    assert classifier.evaluation is not None
    assert classifier.evaluation.photos >= 10
    assert classifier.classes_.tolist() == ["disc, ölig", "square"]
