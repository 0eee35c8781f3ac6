"""What is said besides an answer: fitted on what was held out, folded in, stored, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart
from headstart.bundle import REFERENCES, WEIGHTS, dump_arrays, parse_arrays, save_bundle
from headstart.errors import BundleError, HeadstartError
from headstart.evaluation.trust import Trust
from headstart.predictor import Predictor
from headstart.training.probe import Probe, fit_probe, hold_out, softmax
from headstart.training.trust import collect_held_out, fold_temperature, judge_held_out
from headstart.training.tuning import Tuning


def make_photos(count: int = 120, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    return rng.normal(size=(count, 12)) + 1.2 * np.eye(12)[labels], labels


def divide(count: int, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    number = np.arange(count) // 3 % folds
    return [(np.flatnonzero(number != f), np.flatnonzero(number == f)) for f in range(folds)]


def test_held_out_logits_are_of_heads_that_had_not_seen_the_photo() -> None:
    features, labels = make_photos()
    folds = divide(120, 4)
    probe = fit_probe(features, labels, 3, folds)
    again = hold_out(features, labels, 3, [folds, divide(120, 5)], probe.strength)
    np.testing.assert_allclose(probe.held_out, again[0], atol=0.02)
    assert np.abs(again[1] - again[0]).max() > 0.05
    train, held = folds[1]
    alone = fit_probe(features[train], labels[train], 3, strengths=(probe.strength,))
    theirs = alone.predict_proba(features[held])
    np.testing.assert_allclose(softmax(probe.held_out[held]), theirs, atol=0.03)
    seen = probe.predict_proba(features)[np.arange(120), labels].mean()
    assert softmax(probe.held_out)[np.arange(120), labels].mean() < seen


def test_the_log_loss_of_the_path_is_that_of_the_held_out_logits() -> None:
    features, labels = make_photos()
    probe = fit_probe(features, labels, 3, divide(120, 4))
    chosen = softmax(probe.held_out.astype(np.float64))[np.arange(120), labels]
    best = min(step.log_loss for step in probe.path)
    assert -np.log(chosen).mean() == pytest.approx(best, rel=1e-5)


def test_folding_divides_what_is_the_result_and_nothing_else() -> None:
    kernel, bias = np.ones((4, 2), np.float32), np.zeros(2, np.float32)
    probe = Probe(kernel, bias, 1.0, (), np.ones(2))

    def tuning(share: float) -> Any:
        found = object.__new__(Tuning)
        for name, value in {"share": share, "kernel": kernel, "bias": bias}.items():
            object.__setattr__(found, name, value)
        for name in Tuning.__dataclass_fields__:
            if name not in ("share", "kernel", "bias"):
                object.__setattr__(found, name, None)
        return found

    head, none = fold_temperature(probe, None, 2.0)
    assert (head.kernel == 0.5).all()
    assert none is None
    head, kept = fold_temperature(probe, tuning(0.0), 2.0)
    assert (head.kernel[0, 0], kept.kernel[0, 0]) == (0.5, 1.0)
    head, tuned = fold_temperature(probe, tuning(0.5), 2.0)
    assert (head.kernel[0, 0], tuned.kernel[0, 0]) == (1.0, 0.5)


def test_photos_that_were_never_held_out_are_left_out() -> None:
    features, labels = make_photos()
    folds = [(np.arange(60, 120), np.arange(60))]
    probe = fit_probe(features, labels, 3, folds)
    found = collect_held_out(probe, None, labels, np.arange(120).astype(str))
    assert len(found.labels) == 60
    assert judge_held_out(found).photos == 60
    few = collect_held_out(fit_probe(features, labels, 3), None, labels, np.arange(120).astype(str))
    assert len(few.labels) == 0
    assert judge_held_out(few) is None


# ---- in a bundle


def test_the_bundle_holds_what_was_fitted(trained: Any) -> None:
    manifest = trained.bundle.manifest
    record = Trust.from_json(manifest["trust"])
    assert record.photos == manifest["samples"]["train"]
    assert record.fits(4)
    arrays = parse_arrays(trained.bundle.members[REFERENCES])
    assert arrays["features"].shape == (record.photos, 1280)
    assert arrays["rows"].tolist() == list(range(record.photos))
    lengths = np.linalg.norm(arrays["features"].astype(np.float32), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=2e-3)
    assert {c["other"] for c in manifest["comparison"]} == {"largest class"}
    assert manifest["comparison"][0]["gain"]["low"] > 0
    repeated = manifest["cross_validation"]
    assert repeated["low"] <= repeated["value"] <= repeated["high"]
    assert json.loads(json.dumps(manifest["evaluation"]))["trust"]["coverage_asked"] == 0.9


def test_probabilities_are_calibrated_and_decisions_are_the_same(
    trained: Any, digits_folder: Path
) -> None:
    paths = sorted(digits_folder.glob("*/*.png"))[::9]
    arrays = parse_arrays(trained.bundle.members[WEIGHTS])
    temperature = trained.bundle.manifest["trust"]["temperature"]
    assert abs(temperature - 1) > 0.02, "nothing would be tested"
    features = headstart.extract_features("efficientnet-lite0", paths).array.astype(np.float32)
    logits = features @ arrays["head/kernel"] + arrays["head/bias"]
    found = trained.predict_proba(paths)
    np.testing.assert_allclose(found, softmax(logits), atol=2e-3)
    assert np.array_equal(found.argmax(1), (temperature * logits).argmax(1))


def test_a_prediction_says_how_sure_it_is(trained: Any, digits_folder: Path) -> None:
    rng = np.random.default_rng(0)
    strange = rng.integers(0, 256, (90, 90, 3), np.uint8)
    paths = sorted(digits_folder.glob("*/*.png"))
    *own, noise = trained.predictor.predict([*paths, strange])
    assert noise.is_novel
    assert np.mean([p.is_novel for p in own]) < 0.25
    for prediction in own:
        assert prediction.prediction_set[0] == prediction.label
        assert 0 < prediction.novelty < 3
    truth = [path.parent.name for path in paths]
    sets = trained.predict_sets(paths)
    assert sets == [p.prediction_set for p in own]
    assert np.mean([name in found for name, found in zip(truth, sets, strict=True)]) > 0.85
    wide = trained.predict_sets(paths, coverage=0.99)
    assert sum(map(len, wide)) > sum(map(len, sets))
    assert all(set(a) <= set(b) for a, b in zip(sets, wide, strict=True))


def test_levels_that_were_not_fitted_are_refused(trained: Any, digits_folder: Path) -> None:
    with pytest.raises(HeadstartError, match=r"coverage is 0.5; accepted are 0.8, 0.9"):
        trained.predict_sets([], coverage=0.5)
    with pytest.raises(HeadstartError, match=r"precision is 1; accepted are 0.9"):
        Predictor(trained.bundle, precision=1)


def test_an_earlier_bundle_predicts_without(trained: Any, tmp_path: Path) -> None:
    manifest = {k: v for k, v in trained.bundle.manifest.items() if k not in ("trust", "members")}
    members = {k: v for k, v in trained.bundle.members.items() if k != REFERENCES}
    path = tmp_path / "old.headstart"
    save_bundle(path, manifest, members)
    old = headstart.load(path)
    photo = np.full((80, 80, 3), 200, np.uint8)
    (found,) = old.predictor.predict([photo])
    assert (found.prediction_set, found.is_sure, found.novelty, found.is_novel) == (None,) * 4
    np.testing.assert_array_equal(found.probabilities, trained.predict_proba([photo])[0])
    with pytest.raises(HeadstartError, match="has no prediction sets"):
        old.predict_sets([photo])


@pytest.mark.parametrize(
    "features",
    [
        None,
        np.ones((3, 7), np.float16),
        np.ones((3, 1280), np.float32),
        np.ones(1280, np.float16),
        np.full((3, 1280), np.nan, np.float16),
        np.ones((0, 1280), np.float16),
    ],
)
def test_unusable_references_are_refused(trained: Any, tmp_path: Path, features: Any) -> None:
    members = dict(trained.bundle.members)
    members[REFERENCES] = dump_arrays({} if features is None else {"features": features})
    path = tmp_path / "a.headstart"
    save_bundle(path, trained.bundle.manifest, members)
    with pytest.raises(BundleError, match=r"references.safetensors"):
        list(Predictor(path).predict([np.zeros((50, 50, 3), np.uint8)]))


def test_a_trust_record_of_another_number_of_classes_is_refused(
    trained: Any, tmp_path: Path
) -> None:
    record = json.loads(json.dumps(trained.bundle.manifest["trust"]))
    record["class_thresholds"]["0.9"] = [0.5]
    path = tmp_path / "a.headstart"
    save_bundle(path, {**trained.bundle.manifest, "trust": record}, trained.bundle.members)
    with pytest.raises(BundleError, match="no valid 'trust'"):
        headstart.load(path)
