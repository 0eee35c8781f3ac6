"""A head that is read from the cache is the one that was solved, to the bit."""

from dataclasses import fields

import numpy as np
import pytest

from headstart.data.split import list_folds
from headstart.task import MULTILABEL
from headstart.training import once
from headstart.training.once import (
    choose_strength_once,
    fit_head_once,
    fit_probe_once,
    hold_out_once,
)

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3
FEATURES = (RNG.normal(size=(60, 7)) + LABELS[:, None]).astype(np.float32)
FOLDS = list(list_folds(LABELS, [str(row) for row in range(60)], 3, 0))
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))


def equal(one, other):
    return all(
        np.array_equal(getattr(one, each.name), getattr(other, each.name))
        if isinstance(getattr(one, each.name), np.ndarray)
        else getattr(one, each.name) == getattr(other, each.name)
        for each in fields(one)
    )


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("fit_probe", lambda: fit_probe_once(FEATURES, LABELS, 3, FOLDS)),
        ("fit_probe", lambda: fit_probe_once(FEATURES, LABELS, 3)),
        ("fit_head", lambda: fit_head_once(FEATURES, ONE_HOT, FOLDS, MULTILABEL)),
    ],
)
def test_a_second_time_reads_what_the_first_solved(monkeypatch, name, call):
    solved = call()
    monkeypatch.delattr(once, name)  # whoever would solve it again fails
    read = call()
    assert equal(solved, read)
    assert solved.kernel.dtype == read.kernel.dtype


def test_what_is_held_out_and_the_strength_are_read_too(monkeypatch):
    logits = hold_out_once(FEATURES, LABELS, 3, [FOLDS], 0.1)
    strength = choose_strength_once(FEATURES, LABELS, 3, FOLDS)
    monkeypatch.delattr(once, "hold_out")
    monkeypatch.delattr(once, "choose_strength")
    assert np.array_equal(hold_out_once(FEATURES, LABELS, 3, [FOLDS], 0.1), logits)
    assert choose_strength_once(FEATURES, LABELS, 3, FOLDS) == strength


def test_other_labels_folds_or_features_are_solved(monkeypatch):
    fit_probe_once(FEATURES, LABELS, 3, FOLDS)
    calls = []
    real = once.fit_probe
    monkeypatch.setattr(once, "fit_probe", lambda *given: calls.append(1) or real(*given))
    fit_probe_once(FEATURES, np.roll(LABELS, 1), 3, FOLDS)
    fit_probe_once(FEATURES + 1, LABELS, 3, FOLDS)
    fit_probe_once(FEATURES, LABELS, 3, FOLDS[:2])
    fit_probe_once(FEATURES, LABELS, 3, FOLDS[::-1])
    assert len(calls) == 4
