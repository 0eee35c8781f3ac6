"""The recipe search: trials from the cache, remembered; the best settings are trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart import ImageClassifier
from headstart.budget import OutOfTimeError
from headstart.errors import MissingPackageError
from headstart.recipe import FineTune
from headstart.training import climb, search
from headstart.training.search import FewerViews, Search
from headstart.training.tuning import Options, Photos

optuna = pytest.importorskip("optuna", reason='pip install "headstart[search]"')


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One depth, few views, one epoch."""
    for module in (search, climb):
        monkeypatch.setattr(module, "DEPTHS", ("last_block",))
        monkeypatch.setattr(module, "EPOCHS", 1)
    monkeypatch.setattr(search, "VIEWS", (1, 2))
    monkeypatch.setattr(search, "RATES", (1e-6, 1e-5))  # so few photos diverge with more


def test_settings_are_searched_for_then_trained_with(
    few: None, digits_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(climb, "FEWEST_PHOTOS", 20)
    monkeypatch.setattr(climb, "FEWEST_MISTAKES", 0)
    seen: list[str] = []
    found: list[Any] = []
    searches: list[Search] = []
    run = Search.run

    def keep(self: Search) -> Any:
        self.trials, self.depths = 2, ("last_block",)
        searches.append(self)
        found.append(run(self))
        return found[-1]

    monkeypatch.setattr(Search, "run", keep)
    classifier = ImageClassifier(recipe="search")
    classifier.fit(digits_folder, callbacks=[lambda epoch: seen.append(epoch.run)])
    [result] = found
    assert result.trials + result.pruned == 2
    assert isinstance(result.settings, FineTune)
    assert 0 < result.loss < 5
    trials = [name for name in seen if name.startswith("trial")]
    assert trials[0].startswith("trial 1: last_block, 2 views, rate 1.0e-05"), (
        "the usual ones first"
    )
    assert trials[1].startswith("trial 2: last_block")
    assert any(not name.startswith("trial") for name in seen), "then the best ones are trained"
    assert classifier.tuning is not None
    assert classifier.bundle.manifest["recipe"]["name"] == "search"
    # What was tried is not tried again.
    del seen[:]
    again = run(searches[0])
    assert again is not None
    assert (again.settings, seen) == (result.settings, [])


def test_a_search_that_has_no_time_finds_nothing(digits_folder: Path, trained: Any) -> None:
    def check() -> None:
        raise OutOfTimeError

    prefix: Any = type(
        "P", (), {"backbone": "b", "weights_digest": "", "boundary": "", "image_size": 1}
    )
    photos: Any = Photos((), (), (), np.empty((0, 1)), ())
    probe: Any = type("Q", (), {"strength": 1.0})
    assert Search(prefix, photos, probe, 0, Options(check=check)).run() is None


def test_the_end_of_the_time_within_a_trial_is_no_failure_to_warn_of(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", said.append)
    monkeypatch.setattr(logging.getLogger("optuna"), "handlers", [handler])

    def end(*_: Any) -> float:
        raise OutOfTimeError

    monkeypatch.setattr(Search, "_try", end)
    before = optuna.logging.get_verbosity()
    prefix: Any = type(
        "P", (), {"backbone": "c", "weights_digest": "", "boundary": "", "image_size": 1}
    )
    photos: Any = Photos((), (), (), np.empty((0, 1)), ())
    probe: Any = type("Q", (), {"strength": 1.0})
    assert Search(prefix, photos, probe, 0, Options()).run() is None
    assert optuna.logging.get_verbosity() == before
    assert not said


def test_fewer_views_are_the_first_ones() -> None:
    class Six:
        views = 6

        def read(self, rows: Any, views: Any = 0) -> Any:
            return rows, views

    source = FewerViews(Six(), 2)
    assert source.views == 2
    assert source.read(3, 1) == (3, 1)  # type: ignore[arg-type]


def test_without_optuna_the_pip_line_is_said(
    digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == "optuna" else find(name)
    )
    with pytest.raises(MissingPackageError, match=r'pip install "headstart\[search\]"'):
        ImageClassifier(recipe="search").fit(digits_folder)
