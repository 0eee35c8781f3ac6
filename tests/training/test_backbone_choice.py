"""``--backbone auto``: what is compared, what is chosen, and why."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from headstart import ImageClassifier
from headstart.budget import Budget, BudgetError
from headstart.data.scan import scan_folder
from headstart.errors import BackboneError
from headstart.training import backbone_choice
from headstart.training.backbone_choice import Candidate, _decide, choose_backbone

LITES = ("efficientnet-lite1", "efficientnet-lite0")


def make(name: str, hits: int, top1: float | None, says: str = "") -> Candidate:
    right = np.arange(200) < hits
    return Candidate(name, None, 5.0, 10.0, top1, says, right)


def test_what_a_probe_cannot_tell_apart_is_decided_by_imagenet() -> None:
    found = _decide([make("a", 180, 0.75), make("b", 179, 0.77), make("c", 120, 0.9)], 200, None)
    assert found.chosen == "b"
    says = {candidate.backbone: candidate.says for candidate in found.candidates}
    assert says == {
        "a": "as good here, not better on ImageNet",
        "b": "chosen: as good here, better on ImageNet",
        "c": "likely worse here",
    }
    assert _decide([make("a", 180, 0.9), make("b", 199, 0.1)], 200, None).chosen == "b"


def test_what_does_not_fit_is_not_chosen() -> None:
    rows = [make("a", 150, 0.7), make("b", 190, 0.9, "does not fit: …")]
    assert _decide(rows, 200, Budget(60.0)).chosen == "a"
    unfit = [make("b", 190, 0.9, "does not fit: …")]
    with pytest.raises(BudgetError, match="No backbone fits into 1 min: b does not fit"):
        _decide(unfit, 200, Budget(60.0))
    assert _decide(unfit, 200, Budget(60.0, is_strict=False)).chosen == "b"


def test_the_ready_ones_are_compared_on_a_part_of_the_photos(
    digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_choice, "MOST_COMPARED", 40)
    manifest = scan_folder(digits_folder)
    found = choose_backbone(manifest, seed=0, runtime="auto", names=LITES)
    assert found.photos == 40
    assert [c.backbone for c in found.candidates] == ["efficientnet-lite0", "efficientnet-lite1"]
    for candidate in found.candidates:
        assert candidate.accuracy is not None
        assert candidate.accuracy.value > 0.6
    assert found.chosen in LITES
    late = Budget(100.0, start=time.monotonic() - 50)
    found = choose_backbone(manifest, seed=0, runtime="auto", names=LITES, budget=late)
    assert found.chosen == "efficientnet-lite0"
    assert "a quarter of the budget" in found.candidates[1].says


def test_none_ready_is_an_error(digits_folder: Path) -> None:
    with pytest.raises(BackboneError, match="No backbone is ready"):
        choose_backbone(
            scan_folder(digits_folder), seed=0, runtime="auto", names=["keras:nasnet_large"]
        )


def test_a_classifier_with_backbone_auto_names_what_it_chose(
    digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_choice, "MOST_COMPARED", 24)
    classifier = ImageClassifier("auto").fit(digits_folder)
    manifest = classifier.bundle.manifest
    assert manifest["backbone_choice"]["chosen"] == manifest["backbone"]["name"]
    assert manifest["backbone"]["name"].startswith("efficientnet-lite")
    assert classifier.backbone_choice is not None
