"""The first pass within a budget, and what a plan predicts of it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headstart import ImageClassifier
from headstart.budget import Budget, BudgetError
from headstart.data.scan import scan_folder
from headstart.errors import DatasetError, HeadstartError
from headstart.models.boundary import Prefix
from headstart.models.loaders import load_prefix
from headstart.recipe import choose_recipe
from headstart.training import plan as planning
from headstart.training.anytime import FirstPass
from headstart.training.plan import Step, make_plan, shuffle


@pytest.fixture
def prefix() -> Prefix:
    return load_prefix("efficientnet-lite0")


def test_a_plan_times_photos_that_are_cached_afterwards(
    prefix: Prefix, digits_folder: Path, empty_cache: Path
) -> None:
    manifest = scan_folder(digits_folder)
    plan = make_plan(prefix, manifest, Budget(600.0), seed=0)
    assert (plan.photos, plan.new) == (80, 80)
    assert [step.name for step in plan.steps] == ["first pass", "probe", "measure"]
    assert 0 < plan.minimum < 600
    assert 1e-4 < plan.pace < 10
    again = make_plan(prefix, manifest, Budget(600.0), seed=0)
    assert again.new == 80 - planning.TIMED
    assert again.pace == plan.pace, "few photos are left; what was measured is remembered"
    soft = make_plan(prefix, manifest, Budget(0.001, is_strict=False), seed=0, is_timed=False)
    assert soft.new == again.new, "nothing is timed, and nothing refused"


def test_a_budget_below_the_minimum_is_refused_with_the_minimum(
    digits_folder: Path, empty_cache: Path
) -> None:
    with pytest.raises(BudgetError, match=r"80 photos need at least .* Give --budget \d+s or more"):
        ImageClassifier(budget_seconds=0.5).fit(digits_folder)
    for seconds in (0, -1, "2m", True):
        with pytest.raises(HeadstartError, match="accepted are numbers above 0"):
            ImageClassifier(budget_seconds=seconds).fit(digits_folder)  # type: ignore[arg-type]


class Ending(Budget):
    """It is spent after some looks at it."""

    looks = 0
    allowed = 8  # one look per batch: each class of a shuffled folder of four has been seen

    def check(self, reserve: float = 0.0) -> None:
        type(self).looks += 1
        if self.looks > self.allowed:
            object.__setattr__(self, "start", time.monotonic() - self.seconds)
        super().check()


OPTIONS: dict[str, Any] = {"seed": 0, "runtime": "auto", "progress": None}


@pytest.fixture
def ending(
    prefix: Prefix, digits_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> FirstPass:
    """A pass that nothing was timed of, whose budget ends within it."""
    monkeypatch.setattr(Ending, "looks", 0)
    manifest, budget = scan_folder(digits_folder), Ending(600.0)
    plan = make_plan(prefix, manifest, budget, seed=0, is_timed=False)
    return FirstPass(prefix, manifest, budget, plan)


def test_photos_that_were_not_seen_in_time_are_left_out_and_named(ending: FirstPass) -> None:
    manifest = ending.manifest
    features, says = ending.extract(**OPTIONS)
    seen = len(features.samples)
    assert 8 <= seen < 80
    assert len({sample.label for sample in features.samples}) == 4
    assert f"Only {seen} of 80 photos were used" in says[0]
    whole, nothing = replace(ending, budget=Budget(600.0)).extract(**OPTIONS)
    assert (len(whole.samples), whole.forwarded, nothing) == (80, 80 - seen, ())
    assert [s.path for s in whole.samples] == [s.path for s in manifest.samples]


def test_time_for_fine_tuning_is_not_kept_from_the_first_pass(
    prefix: Prefix, digits_folder: Path, empty_cache: Path
) -> None:
    manifest, budget = scan_folder(digits_folder), Budget(600.0)
    plan = make_plan(prefix, manifest, budget, seed=0)
    names = [step.name for step in plan.steps]
    plan.set_further([Step("half", "half of the network", 590.0, "fits")])
    plan.set_further([Step("half", "half of the network", 595.0, "fits")])
    assert [step.name for step in plan.steps] == [*names[:-1], "half", names[-1]]
    features, says = FirstPass(prefix, manifest, budget, plan).extract(**OPTIONS)
    assert (len(features.samples), says) == (80, ())


def test_too_few_photos_in_time_are_an_error(
    ending: FirstPass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ending, "looks", Ending.allowed)
    with pytest.raises(DatasetError, match=r"Only 0 of 80 photos were seen .* larger --budget"):
        ending.extract(**OPTIONS)


def test_a_shuffled_manifest_begins_with_all_classes(digits_folder: Path) -> None:
    manifest = scan_folder(digits_folder)
    shuffled = shuffle(manifest, 0)
    assert len({sample.label for sample in shuffled.samples[:16]}) == 4
    assert sorted(s.path for s in shuffled.samples) == [s.path for s in manifest.samples]


def test_the_views_of_fine_tuning_are_not_of_the_first_pass(
    digits_folder: Path, empty_cache: Path
) -> None:
    quick = {"unfreeze": "last_block", "epochs": 1, "views": 2, "learning_rate": 1e-4}
    recipe = choose_recipe("tune", **quick, holdout=0.0)
    classifier = ImageClassifier(recipe=recipe, budget_seconds=600).fit(digits_folder)
    seconds = classifier.seconds
    assert classifier.plan is not None
    took = {step.name: step.actual or 0.0 for step in classifier.plan.steps}
    booked = seconds["decode"] + seconds["prefix"] + seconds["groups"]
    assert 0 < took["first pass"] < booked - 0.01
    assert took["fine-tuning"] > seconds["fine_tune"] + 0.01
    assert sum(took.values()) <= seconds["total"] + 0.05


def test_a_training_with_a_budget_has_its_plan_in_the_bundle(
    digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.training.climb.FEWEST_PHOTOS", 100)
    told: list[Any] = []
    classifier = ImageClassifier(budget_seconds=300)
    classifier.fit(digits_folder, on_plan=told.append)
    plan = classifier.bundle.manifest["plan"]
    assert classifier.bundle.manifest["recipe"]["name"] == "auto"
    assert told == [classifier.plan]
    assert plan["budget"] == 300
    assert plan["actual"] == pytest.approx(classifier.seconds["total"], abs=0.5)
    names = {step["name"]: step for step in plan["steps"]}
    assert list(names) == ["first pass", "probe", "fine-tuning", "measure"]
    assert "could not be told from chance" in names["fine-tuning"]["why"]
    assert names["probe"]["actual"] > 0
    assert ImageClassifier().fit(digits_folder).bundle.manifest["plan"] is None
