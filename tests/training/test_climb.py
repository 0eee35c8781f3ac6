"""The recipe auto: which steps are taken, what ends them, what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_network import CLASSES, SAMPLES, SHAPE, Array, build_small
from test_loop import make_network

from headstart.budget import Budget, OutOfTimeError
from headstart.data.scan import Sample
from headstart.recipe import FineTune
from headstart.training import climb as climbing
from headstart.training import ladder
from headstart.training.climb import FEWEST_PHOTOS, Climb
from headstart.training.forecast import (
    Amounts,
    Speed,
    measure_speed,
    recall_speed,
)
from headstart.training.forecast import _count_passes as count_passes
from headstart.training.ladder import RUNGS
from headstart.training.loop import Context
from headstart.training.probe import Probe, Strength, fit_probe
from headstart.training.stage import Stage
from headstart.training.tuning import Options, Photos

FAST = Speed(1.0, 1e-4, 1e-5, 0.8, 1000)


def make_photos(count: int) -> Photos:
    samples = tuple(Sample(Path(f"{n}.png"), "ab"[n % 2], str(n)) for n in range(count))
    groups = tuple(str(n) for n in range(count))
    return Photos(samples, (), groups, np.zeros((count, 4), np.float32), ("a", "b"))


def make_climb(budget: Budget | None, count: int = 400, accuracy: float = 0.8) -> Climb:
    probe = Probe(
        np.zeros((4, 2), np.float32),
        np.zeros(2, np.float32),
        1.0,
        (Strength(1.0, 0.5, accuracy),),
        np.ones(2),
    )
    prefix: Any = SimpleNamespace(weights_digest="w", image_size=8)
    return Climb(prefix, make_photos(count), probe, 0, Options(seconds_per_photo=0.001), budget, 10)


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> dict[str, Speed]:
    """What steps cost, by what is unfrozen; all of it was measured before."""
    found = dict.fromkeys(("last_block", "half", "most", "all"), FAST)
    monkeypatch.setattr(ladder, "recall_speed", lambda _, settings: found[settings.unfreeze])
    return found


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Steps that give logits of a certain skill, by what is unfrozen and the views."""

    def install(**skills: Any) -> list[str]:
        taken: list[str] = []

        def tune(prefix: Any, photos: Photos, probe: Any, settings: FineTune, **_: Any) -> Any:
            name = next(name for name, rung in RUNGS if rung == settings)
            taken.append(name)
            skill = skills.get(str(settings.unfreeze), 0.0)
            if isinstance(skill, BaseException):
                raise skill
            rows = np.arange(200)
            truth = np.eye(2)[rows % 2]
            noise = np.random.default_rng(len(taken)).normal(size=(200, 2))
            held_out = (rows, skill * truth + noise) if skill else None
            return SimpleNamespace(
                share=1.0 if skill else 0.0, held_out=held_out, says=f"{name}.", seconds={}
            )

        monkeypatch.setattr(climbing, "tune", tune)
        return taken

    return install


def test_the_furthest_that_fits_is_taken_then_what_is_beyond_if_it_fits(
    speeds: dict[str, Speed], tune: Any
) -> None:
    taken = tune(last_block=1.0, half=2.0, most=3.0, all=4.0)
    speeds["most"] = speeds["all"] = replace(FAST, train=1.0)
    climb = make_climb(Budget(100.0))
    climb.run()
    assert taken == ["half"]
    assert climb.settings == dict(RUNGS)["half"]
    by_name = {step.name: step for step in climb.steps}
    assert "would take about" in by_name["whole network"].why
    assert not by_name["whole network"].is_taken
    assert "fits: about" in by_name["half"].why


def test_without_a_gain_of_half_of_the_network_the_whole_is_left(
    speeds: dict[str, Speed], tune: Any
) -> None:
    taken, climb = tune(half=0.0, all=4.0), make_climb(Budget(1000.0))
    climb.run(RUNGS[3:])
    assert taken == ["whole network"], "all fit: the furthest is taken"
    speeds["most"] = speeds["all"] = replace(FAST, train=1.0)
    climb = make_climb(Budget(1000.0))
    taken.clear()
    climb.run()
    assert (taken, climb.best, climb.settings) == (["half"], None, None)
    assert climb.last is not None
    assert [step.name for step in climb.steps] == ["half", "most", "whole network"]


@pytest.mark.parametrize(("after", "is_kept"), [(6.0, True), (1.0, False)])
def test_a_later_step_replaces_an_earlier_one_only_where_that_is_likely(
    speeds: dict[str, Speed], tune: Any, after: float, is_kept: bool
) -> None:
    rungs = (RUNGS[1], RUNGS[-1])
    taken, climb = tune(last_block=2.0, all=after), make_climb(None)
    assert climb.take(*rungs[0])
    assert climb.take(*rungs[1]) is is_kept
    assert taken == ["last block", "whole network"]
    assert climb.settings == rungs[is_kept][1]
    says = "it is kept" if is_kept else "the step before is kept"
    assert says in climb.steps[-1].outcome


def test_ctrl_c_while_steps_are_timed_leaves_the_probe(
    tune: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    taken = tune(half=2.0)
    monkeypatch.setattr(ladder, "recall_speed", lambda *_: None)
    monkeypatch.setattr(ladder, "measure_speed", interrupt)
    climb = make_climb(Budget(1000.0))
    climb.run()
    assert (bool(climb.stopped), climb.best, taken) == (True, None, [])
    [step] = climb.steps
    assert not step.is_taken
    assert "stopped" in step.why
    assert climb.warnings[0].endswith("The result is the head on the frozen network.")
    assert "Fine-tuning is stopped" in caplog.text, "at once"


def test_a_search_without_a_budget_times_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "recall_speed", lambda *_: None)
    monkeypatch.delattr(ladder, "measure_speed")
    asked: list[Any] = []

    class Nothing:
        def __init__(self, *_: Any, depths: Any) -> None:
            asked.append(depths)

        def run(self) -> None:
            return None

    monkeypatch.setattr(climbing, "Search", Nothing)
    climb = make_climb(None)
    climb.search()
    assert asked == [climbing.DEPTHS]


def test_an_interrupt_while_a_search_is_timed_is_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ladder, "recall_speed", lambda *_: None)
    monkeypatch.setattr(ladder, "measure_speed", interrupt)
    climb = make_climb(Budget(1000.0))
    climb.search()
    assert climb.stopped
    assert [(step.is_taken, "stopped" in step.why) for step in climb.steps] == [(False, True)] * 2


@pytest.mark.parametrize(
    ("end", "says"),
    [(OutOfTimeError(), "not finished within the budget"), (KeyboardInterrupt(), "stopped")],
)
def test_what_ends_a_step_leaves_the_best_so_far(
    speeds: dict[str, Speed], tune: Any, end: BaseException, says: str
) -> None:
    speeds["all"] = replace(FAST, train=0.02)
    taken, climb = tune(half=2.0, all=end), make_climb(None)
    climb.take(*RUNGS[3])
    climb.take(*RUNGS[-1])
    assert taken == ["half", "whole network"]
    assert climb.stopped
    assert climb.settings == RUNGS[3][1]
    assert says in climb.steps[-1].outcome
    [warning] = climb.warnings
    assert says in warning
    assert warning.endswith("The result is the best until then.")
    climb.run(RUNGS)
    assert len(taken) == 2, "nothing is begun after that"


def test_nothing_is_trained_where_no_gain_could_be_shown(
    speeds: dict[str, Speed], tune: Any
) -> None:
    taken = tune(half=2.0)
    for climb, why in (
        (make_climb(None, count=FEWEST_PHOTOS - 1), "could not be told from chance"),
        (make_climb(None, accuracy=0.99), "errs on 4 of 400 photos held out: nothing to gain"),
    ):
        climb.run()
        assert why in climb.steps[0].why
        assert (taken, climb.best) == ([], None)


def test_what_is_far_beyond_the_budget_is_not_even_timed(
    monkeypatch: pytest.MonkeyPatch, tune: Any
) -> None:
    def fail(*_: Any) -> Any:
        raise AssertionError("TensorFlow would be imported")

    monkeypatch.setattr(ladder, "recall_speed", lambda *_: None)
    monkeypatch.setattr(ladder, "measure_speed", fail)
    climb = make_climb(Budget(5.0), count=2000)
    climb.run()
    assert [step.name for step in climb.steps] == [name for name, _ in RUNGS]
    assert all("very roughly" in step.why for step in climb.steps)


def test_the_check_ends_a_strict_budget_only() -> None:
    assert make_climb(None)._make_check(1.0) is None
    assert make_climb(Budget(9.0, is_strict=False))._make_check(1.0) is None
    make_climb(Budget(60.0))._make_check(1.0)()  # type: ignore[misc]
    check = make_climb(Budget(60.0))._make_check(59.0)
    assert check is not None
    with pytest.raises(OutOfTimeError):
        check()


@pytest.mark.parametrize("enough", [200, 1])
def test_a_forecast_counts_the_photos_that_a_stage_trains_on(
    monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    for module in ("stage", "forecast"):
        monkeypatch.setattr(f"headstart.training.{module}.ENOUGH_HELD_OUT", enough)
    rates = (1e-6, 2e-6, 3e-6)
    settings: dict[str, Any] = {"epochs": 3, "patience": 99, "learning_rates": rates}
    network = make_network(build_small(), **settings)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(SAMPLES, *SHAPE)).astype(np.float32)
    labels = np.arange(SAMPLES) % CLASSES
    seen: list[int] = []
    step = type(network).train_step

    def count(self: Any, activations: Any, *arguments: Any) -> Any:
        seen.append(len(activations))
        return step(self, activations, *arguments)

    monkeypatch.setattr(type(network), "train_step", count)
    features = np.asarray(network._features(rows, False))
    samples = tuple(Sample(Path(f"{n}"), str(labels[n]), str(n)) for n in range(SAMPLES))
    photos = Photos(samples, (), tuple(map(str, range(SAMPLES))), features, ("0", "1", "2"))
    monkeypatch.setattr("headstart.training.stage._describe", lambda *_: "")
    monkeypatch.setattr("headstart.training.stage.choose_share", lambda *_: (1.0, None))
    stage = Stage(network, Array(rows), photos, fit_probe(features, labels, 3), Context(0))
    stage.run()
    trained, _ = count_passes(network.settings, Amounts(SAMPLES, 0, 0, 0.0))
    # The last run takes as many epochs as were best, here three at most.
    assert trained - 2 * SAMPLES <= sum(seen) <= trained


def test_a_speed_is_measured_once_per_machine(empty_cache: Path) -> None:
    from headstart.models.loaders import load_prefix

    prefix, settings = load_prefix("efficientnet-lite0"), FineTune("last_block", batch_size=4)
    assert recall_speed(prefix, settings) is None
    speed = measure_speed(prefix, settings, 3, 100)
    assert recall_speed(prefix, settings) == speed
    assert recall_speed(prefix, FineTune("half", batch_size=4)) is None
    assert 0.8 < speed.share_before < 0.9
    assert speed.bytes_per_photo == 7 * 7 * 192 * 2
    assert 0 < speed.infer < speed.train < speed.start
    assert speed.memory_mb > 200
