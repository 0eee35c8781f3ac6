"""Which step fits, and what is said of those that do not."""

from headstart.budget import Budget
from headstart.training import ladder
from headstart.training.forecast import Amounts, Speed
from headstart.training.ladder import RUNGS, Ladder

SLOW = Speed(10.0, 1.0, 0.3, 0.55, 40_000)


def test_a_step_that_was_timed_tells_of_all_of_its_depth(monkeypatch):
    """The further step of a depth is guessed first, and may be refused by that alone."""
    known = {}
    monkeypatch.setattr(ladder, "recall_speed", lambda prefix, s: known.get(s.unfreeze))

    def measure(prefix, settings, num_classes, photos):
        known[settings.unfreeze] = SLOW

    monkeypatch.setattr(ladder, "measure_speed", measure)
    rungs = tuple(rung for rung in RUNGS if rung[0].startswith("half"))
    amounts = Amounts(1000, 0, 0, 0.005)
    fitting, beyond = Ladder(None, 10, amounts, Budget(110.0)).find_fitting(rungs)
    assert known == {"half": SLOW}
    assert fitting is None
    assert [step.name for step in beyond] == ["half, quick", "half"]
    assert all("would take about" in step.why for step in beyond), [s.why for s in beyond]


def test_without_timing_a_guess_is_called_one(monkeypatch):
    monkeypatch.setattr(ladder, "recall_speed", lambda prefix, settings: None)
    monkeypatch.delattr(ladder, "measure_speed")
    found = Ladder(None, 10, Amounts(1000, 0, 0, 0.05), Budget(60.0))
    fitting, beyond = found.find_fitting(RUNGS, is_timed=False)
    assert fitting is None
    assert all("would take very roughly" in step.why for step in beyond)
