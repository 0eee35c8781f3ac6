"""What a training would do, without training."""

from __future__ import annotations

from headstart.budget import Budget
from headstart.data.scan import Manifest
from headstart.data.split import check_classes
from headstart.models.loaders import load_prefix
from headstart.recipe import FineTune, Recipe
from headstart.runtimes import AUTO, require_runtime
from headstart.training.backbone_choice import choose_backbone
from headstart.training.climb import object_to_few
from headstart.training.forecast import Amounts
from headstart.training.ladder import RUNGS, Ladder, make_step
from headstart.training.plan import Plan, Step, make_plan

# Of the photos; as the split sets them aside.
_TESTED = 0.2


def foresee(
    manifest: Manifest,
    *,
    backbone: str = "efficientnet-lite0",
    runtime: str = AUTO,
    seed: int = 0,
    budget: Budget | None = None,
    recipe: Recipe | None = None,
) -> Plan:
    """The plan of ``headstart train``: some photos and some steps are timed.

    Whether a step of the recipe ``auto`` pays is only known after the probe; its plan has the first
    one that would fit.

    Args:
        manifest: Labelled photos.
        backbone: Whose features are used, or ``"auto"``.
        runtime: What computes the prefix.
        seed: Which photos are timed.
        budget: What there is.
        recipe: ``auto`` by default, or one with settings of fine-tuning, which are timed.

    Raises:
        HeadstartError: One of its kinds, with what to do; `BudgetError` where the budget is less
            than the least that is needed.
    """
    require_runtime(runtime)
    check_classes(manifest)
    if backbone == "auto":
        choice = choose_backbone(manifest, seed=seed, runtime=runtime, budget=budget)
        backbone = choice.chosen
    prefix = load_prefix(backbone)
    plan = make_plan(prefix, manifest, budget, seed=seed, runtime=runtime)
    sides = [sample.side for sample in manifest.samples]
    tested, validated = sides.count("test"), sides.count("validation")
    if not tested:
        tested = round(_TESTED * len(sides))
    trained = len(sides) - tested - validated
    classes = len({sample.label for sample in manifest.samples})
    amounts = Amounts(trained, validated, tested, plan.pace)
    before = plan.minimum - (budget.spent if budget else 0.0)
    ladder = Ladder(prefix, classes, amounts, budget, max(before, 0.0))
    stage = recipe.fine_tune if recipe is not None else None
    plan.steps[-1:-1] = _list_steps(ladder, trained) if stage is None else [_time(ladder, stage)]
    return plan


def _time(ladder: Ladder, settings: FineTune) -> Step:
    """The step that was asked for, whether it fits or not."""
    forecast = ladder.measure(settings)
    fits = forecast.seconds <= ladder.left
    why = "as asked for" if fits else "as asked for; more than the budget: it will not be finished"
    return make_step("fine-tuning", settings, why, forecast)


def _list_steps(ladder: Ladder, trained: int) -> list[Step]:
    why = object_to_few(trained)
    if why:
        return [Step("fine-tuning", "no part of the network", None, why, is_taken=False)]
    found, beyond = ladder.find_fitting(RUNGS)
    if found is None:
        return beyond
    number, forecast = found
    name, settings = RUNGS[number]
    step = make_step(name, settings, "fits, if the probe errs enough", forecast)
    return [step, *beyond]
