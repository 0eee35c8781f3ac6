"""``headstart train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.options import (
    AddressOption,
    AugmentOption,
    BackboneOption,
    BudgetOption,
    EngineOption,
    EpochsOption,
    ForceOption,
    GpusOption,
    GroupByOption,
    JsonOption,
    LearningRateOption,
    PhotosArgument,
    RecipeOption,
    RuntimeOption,
    SeedOption,
    TaskOption,
    TrackOption,
    UnfreezeOption,
)


def train(
    photos: PhotosArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The bundle; by default PHOTOS.headstart.", show_default=False
        ),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(help="Test photos: a folder or a CSV like PHOTOS.", show_default=False),
    ] = None,
    group_by: GroupByOption = None,
    recipe: RecipeOption = "auto",
    budget: BudgetOption = None,
    unfreeze: UnfreezeOption = None,
    epochs: EpochsOption = None,
    learning_rate: LearningRateOption = None,
    augment: AugmentOption = None,
    backbone: BackboneOption = "efficientnet-lite0",
    runtime: RuntimeOption = "auto",
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    ray_gpus: GpusOption = None,
    seed: SeedOption = 0,
    task: TaskOption = "classification",
    keep_thumbnails: Annotated[
        bool,
        typer.Option(
            "--keep-thumbnails",
            help="Keep small pictures of training photos, to be shown beside answers.",
        ),
    ] = False,
    track: TrackOption = None,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Train a classifier on a folder of photos and measure it on photos it has not seen.

    PHOTOS has one folder per class, or train/, validation/ and test/ folders of such; or it is a
    CSV file with the columns path, label, optionally split and group. Without test photos about
    20 % of each class are set aside; a bundle that is overwritten hands its test photos on.
    """
    from rich.markup import escape

    from headstart.budget import begin_budget
    from headstart.bundle import check_output, find_bundle
    from headstart.classifier import ImageClassifier
    from headstart.cli import output as out
    from headstart.cli.answers import print_figures
    from headstart.cli.plan import print_backbones, print_plan
    from headstart.cli.signals import surviving_hangup
    from headstart.cli.tuning import print_epoch, print_tuning, show_log
    from headstart.engines import require_engine, use_engine
    from headstart.interrupts import holding
    from headstart.recipe import choose_recipe, read_views
    from headstart.runs import check_run_output, name_run
    from headstart.task import CLASSIFICATION, get_task

    require_engine(engine, ray_address, ray_gpus)
    # Without a budget the recipe auto has one of its own, which only classification follows.
    has_budget = budget is not None or get_task(task) is CLASSIFICATION
    time_limit = begin_budget(budget, recipe) if has_budget else None
    path = output or _name_bundle(photos)
    check_output(path, force)
    check_run_output(name_run(path), force=True)  # it goes with the bundle
    settings = {"unfreeze": unfreeze, "epochs": epochs, "learning_rate": learning_rate}
    views = read_views(augment)
    _check_settings(recipe, unfreeze, views, epochs, learning_rate)
    chosen = choose_recipe(recipe, views=views, **settings)
    classifier = ImageClassifier(
        backbone,
        recipe=chosen,
        seed=seed,
        runtime=runtime,
        group_by=group_by,
        keep_thumbnails=keep_thumbnails,
        trackers=tuple(track or ()),
        task=task,
    )
    told, earlier = [print_epoch], find_bundle(path)
    with surviving_hangup():
        with (
            use_engine(engine, address=ray_address, gpus=ray_gpus),
            show_log(),
            out.progress("features") as report,
        ):
            classifier.fit(
                photos,
                test=test,
                earlier=earlier,
                progress=report,
                callbacks=told,
                budget=time_limit,
                on_plan=lambda plan: print_plan(plan, out.stderr()),
            )
        with holding("saving"):
            classifier.save(path, force=force)
            classifier.save_run(name_run(path), force=True)
    if as_json:
        out.print_json(describe_training(classifier, path))
        return
    out.print_notes(classifier.warnings, classifier.problems, classifier.flags)
    if classifier.backbone_choice is not None:
        print_backbones(classifier.backbone_choice)
    if classifier.tuning is not None:
        print_tuning(classifier.tuning)
    if classifier.evaluation is not None:
        print_figures(classifier.evaluation)
    out.print_contrasts(classifier.comparison, classifier.cross_validation)
    if classifier.plan is not None:
        print_plan(classifier.plan, out.stdout())
    out.print_seconds(classifier.seconds)
    quoted = escape(shlex.quote(str(path)))
    out.stdout().print(
        f"saved [bold]{escape(str(path))}[/]; try: headstart predict {quoted} PHOTOS, or "
        f"headstart report {quoted}",
        soft_wrap=True,
    )


def _name_bundle(photos: Path) -> Path:
    name = photos.name.strip(".") or photos.resolve().name
    return Path(f"{name.removesuffix('.csv')}.headstart")


def describe_training(classifier: Any, path: Path) -> dict[str, Any]:
    """The object of ``train --json``; its schema is in docs/json.md."""
    from headstart.cli.output import list_problems

    manifest = classifier.bundle.manifest
    return {
        "bundle": str(path),
        "task": manifest["task"],
        "backbone": manifest["backbone"]["name"],
        "recipe": manifest["recipe"],
        "plan": manifest["plan"],
        "backbone_choice": manifest["backbone_choice"],
        "runtime": manifest["runtime"],
        "samples": manifest["samples"],
        "problems": list_problems(classifier.problems),
        "flags": list_problems(classifier.flags),
        "evaluation": manifest["evaluation"],
        "validation": manifest["validation"],
        "fine_tune": manifest["fine_tune"],
        "comparison": manifest["comparison"],
        "cross_validation": manifest["cross_validation"],
        "trust": manifest["trust"],
        "seconds": classifier.seconds,
        "warnings": list(classifier.warnings),
    }


def _check_settings(recipe: str, unfreeze: str | None, *more: object) -> None:
    """Refuse settings of fine-tuning where the head alone is asked for."""
    from headstart.errors import HeadstartError
    from headstart.recipe import FineTune

    has_more = any(value is not None for value in more)
    if recipe == "probe" and (has_more or unfreeze is not None):
        raise HeadstartError(
            "--recipe probe trains the head alone. Leave out --unfreeze, --epochs, --learning-rate "
            "and --augment, or take --recipe tune."
        )
    if has_more and unfreeze is not None and FineTune(unfreeze).is_nothing:
        raise HeadstartError(
            f"--unfreeze {unfreeze} trains the head alone. Leave out --epochs, --learning-rate and "
            "--augment, or unfreeze something, such as last_block."
        )
