"""``headstart plan``, and how a plan is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart.budget import begin_budget, format_duration
from headstart.cli.options import (
    AugmentOption,
    BackboneOption,
    BudgetOption,
    EpochsOption,
    GroupByOption,
    JsonOption,
    LearningRateOption,
    PhotosArgument,
    RuntimeOption,
    SeedOption,
    UnfreezeOption,
)

if TYPE_CHECKING:
    from rich.console import Console

    from headstart.training.backbone_choice import BackboneChoice
    from headstart.training.plan import Plan


def plan(
    photos: PhotosArgument,
    budget: BudgetOption = None,
    group_by: GroupByOption = None,
    unfreeze: UnfreezeOption = None,
    epochs: EpochsOption = None,
    learning_rate: LearningRateOption = None,
    augment: AugmentOption = None,
    backbone: BackboneOption = "efficientnet-lite0",
    runtime: RuntimeOption = "auto",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """What headstart train would do with these photos and this budget, and how long it would take.

    Some photos are timed (and cached), and some steps of fine-tuning where they may fit. Nothing is
    trained. With settings of fine-tuning, such as --unfreeze all, the plan has that step.
    """
    from headstart.cli import output as out
    from headstart.data.table import scan_source
    from headstart.recipe import choose_recipe, read_views
    from headstart.training.foresee import foresee

    settings = {"unfreeze": unfreeze, "epochs": epochs, "learning_rate": learning_rate}
    recipe = choose_recipe("auto", views=read_views(augment), **settings)
    limit = begin_budget(budget, recipe.name)
    found = foresee(
        scan_source(photos, group_by),
        backbone=backbone,
        runtime=runtime,
        seed=seed,
        budget=limit,
        recipe=recipe,
    )
    if as_json:
        out.print_json(found.to_json())
        return
    print_plan(found, out.stdout())


def print_plan(plan: Plan, console: Console) -> None:
    """A row per step: predicted seconds, and afterwards what it took."""
    from rich.markup import escape
    from rich.table import Table

    is_over = plan.actual is not None
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("step", no_wrap=True)
    table.add_column("what")
    for name in ("predicted", "took") if is_over else ("predicted",):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("cache", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why" if not is_over else "outcome")
    for step in plan.steps:
        predicted = "–" if step.seconds is None else format_duration(step.seconds)
        took = "–" if step.actual is None else format_duration(step.actual)
        size = f"{step.cached_bytes / 1e6:,.0f} MB" if step.cached_bytes else ""
        memory = f"{step.memory_mb:,.0f} MB" if step.memory_mb else ""
        cells = [step.name, step.what, predicted, *([took] if is_over else []), size, memory]
        says = step.outcome if is_over and step.outcome else step.why
        style = "" if step.is_taken else "dim"
        table.add_row(*map(escape, [*cells, says]), style=style)
    console.print(table)
    budget = "no budget" if plan.budget is None else f"budget {format_duration(plan.budget)}"
    if plan.budget is not None and not plan.is_strict:
        budget += " for more than the probe (change it with --budget)"
    if plan.actual is not None:
        total = f"took {format_duration(plan.actual)}"
    else:
        total = f"at least {format_duration(plan.minimum)}"
        tuned = sum(s.seconds or 0.0 for s in plan.steps if s.is_taken and s.name == "fine-tuning")
        if tuned:
            total += f", about {format_duration(plan.minimum + tuned)} with fine-tuning"
    console.print(f"{total}, {budget}", soft_wrap=True)


def print_backbones(choice: BackboneChoice) -> None:
    """The networks that were compared."""
    from headstart.cli.output import percent, print_rows, stdout

    rows = []
    for each in choice.candidates:
        accuracy = percent(each.accuracy).replace("\\[", "[") if each.accuracy else "–"
        pace = "–" if each.milliseconds is None else f"{each.milliseconds:.0f} ms"
        top1 = "–" if each.top1 is None else f"{each.top1:.1%}"
        rows.append((each.backbone, accuracy, pace, f"{each.megabytes:.0f} MB", top1, each.says))
    print_rows(rows, "backbone", "accuracy", "a photo", "weights", "ImageNet", "")
    stdout().print(f"accuracy: of a probe, cross-validated on {choice.photos} photos", style="dim")
