"""What a training would do, without training."""

from __future__ import annotations

from headstart.budget import Budget
from headstart.data.scan import Manifest
from headstart.data.split import check_classes
from headstart.models.boundary import Prefix
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
    ladder = _make_ladder(prefix, manifest, plan, budget)
    stage = recipe.fine_tune if recipe is not None else None
    plan.set_further(_list_steps(ladder) if stage is None else [_time(ladder, stage)])
    return plan


def foretell(
    prefix: Prefix,
    manifest: Manifest,
    recipe: Recipe,
    budget: Budget | None,
    *,
    seed: int,
    runtime: str,
) -> Plan | None:
    """The plan that a training begins with; None without a budget.

    Photos are timed for a budget that must be kept. Steps of fine-tuning are not: what is known of
    this machine, or a guess, has to do until there is a probe.

    Args:
        prefix: The frozen part.
        manifest: All photos.
        recipe: What is trained.
        budget: What there is.
        seed: Which photos are timed.
        runtime: What computes the prefix.

    Raises:
        BudgetError: See `make_plan`.
    """
    if budget is None:
        return None
    is_timed = budget.is_strict
    plan = make_plan(prefix, manifest, budget, seed=seed, runtime=runtime, is_timed=is_timed)
    ladder = _make_ladder(prefix, manifest, plan, budget)
    if recipe.fine_tune is not None:
        forecast = ladder.forecast(recipe.fine_tune)
        plan.set_further([make_step("fine-tuning", recipe.fine_tune, "as asked for", forecast)])
    elif recipe.name == "search":
        says = "as asked for; half of what is left at most"
        plan.set_further([Step("search", "settings of fine-tuning", None, says)])
    elif recipe.name == "auto":
        plan.set_further(_list_steps(ladder, is_timed=False))
    return plan


def _make_ladder(prefix: Prefix, manifest: Manifest, plan: Plan, budget: Budget | None) -> Ladder:
    """What steps would take after what the plan needs, with the sides that the split will have."""
    sides = [sample.side for sample in manifest.samples]
    tested, validated = sides.count("test"), sides.count("validation")
    if not tested:
        tested = round(_TESTED * len(sides))
    amounts = Amounts(len(sides) - tested - validated, validated, tested, plan.pace)
    before = plan.minimum - (budget.spent if budget else 0.0)
    classes = len({sample.label for sample in manifest.samples})
    return Ladder(prefix, classes, amounts, budget, max(before, 0.0))


def _time(ladder: Ladder, settings: FineTune) -> Step:
    """The step that was asked for, whether it fits or not."""
    forecast = ladder.measure(settings)
    fits = forecast.seconds <= ladder.left
    why = "as asked for" if fits else "as asked for; more than the budget: it will not be finished"
    return make_step("fine-tuning", settings, why, forecast)


def _list_steps(ladder: Ladder, *, is_timed: bool = True) -> list[Step]:
    why = object_to_few(ladder.amounts.train)
    if why:
        return [Step("fine-tuning", "no part of the network", None, why, is_taken=False)]
    found, beyond = ladder.find_fitting(RUNGS, is_timed=is_timed)
    if found is None:
        return beyond
    number, forecast = found
    name, settings = RUNGS[number]
    says = "fits" if forecast.is_measured else "may fit, very roughly"
    step = make_step(name, settings, f"{says}, if the probe errs enough", forecast)
    return [step, *beyond]
