"""Arguments and options of commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headstart.recipe import FineTune

_USUAL = FineTune()

PhotosArgument = Annotated[
    Path,
    typer.Argument(
        help="A folder with one folder per class, or a CSV; or its address, such as s3://….",
        show_default=False,
    ),
]
BundleArgument = Annotated[
    Path, typer.Argument(help="A bundle made by: headstart train.", show_default=False)
]
BackboneOption = Annotated[
    str,
    typer.Option(
        help="A name of: headstart backbones; auto, the one of those ready that suits the photos "
        "(train and plan); or kerashub:PRESET_OR_FOLDER, hub:FOLDER_OR_URL, "
        "local:FILE. See docs/backbones.md."
    ),
]
RuntimeOption = Annotated[
    str, typer.Option(help="auto, onnxruntime, openvino, litert or tensorflow.")
]
EngineOption = Annotated[
    str,
    typer.Option(
        help="Where photos are computed and networks trained: local, or ray (extra ray), see "
        "docs/scale.md."
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="host:port of a Ray cluster; by default that of RAY_ADDRESS, else --engine ray starts "
        "one on this machine.",
        show_default=False,
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--ray-gpus",
        help="What of a GPU each task of --engine ray asks for, such as 0.25; for the runtime "
        "tensorflow, the only one that uses GPUs.",
        show_default=False,
    ),
]
GroupByOption = Annotated[
    str | None,
    typer.Option(
        help="Photos that belong together: a regular expression on paths, or a CSV's column.",
        show_default=False,
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
ViewsOption = Annotated[
    int,
    typer.Option(
        min=1,
        max=64,
        help="Views of each photo to average: 2 adds the mirror image, more add crops. "
        "Each costs a pass of the network.",
    ),
]
# As in headstart.evaluation.trust, which --help need not import; a test holds them equal.
COVERAGE, PRECISION = 0.9, 0.95
CoverageOption = Annotated[
    float,
    typer.Option(help="Share of the prediction sets that hold the truth: 0.8, 0.9, 0.95, 0.99."),
]
PrecisionOption = Annotated[
    float,
    typer.Option(help="Share of the answers that shall be right, else not sure: 0.9, 0.95, 0.99."),
]
TaskOption = Annotated[
    str,
    typer.Option(
        help="What is told of a photo: classification; multilabel (a CSV's labels with ; between "
        "them); regression (a CSV's numbers). See docs/tasks.md."
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the output.")]

# ---- of train: what is trained, and how

RecipeOption = Annotated[
    str,
    typer.Option(
        help="What is trained: probe (the head), tune (also --unfreeze), search (tune, with "
        "settings that are searched for), or auto: the head, then "
        "more where it fits into the budget and pays."
    ),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        help="Time it may take, such as 90s, 2m, 1h: planned first, then kept. Without it the "
        "recipe auto begins nothing that would take it beyond 2m.",
        show_default=False,
    ),
]
UnfreezeOption = Annotated[
    str | None,
    typer.Option(
        help="What of the backbone is trained: none, last_block, last_2_blocks, half, most, "
        "all, a block's name, a number of layers, a regular expression; of fine-tuning by default "
        f"{_USUAL.unfreeze}. Implies fine-tuning, also beyond the budget of --recipe auto.",
        show_default=False,
    ),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Also tell tensorboard (or tensorboard=FOLDER) or mlflow (or mlflow=URI); can be "
        "given twice.",
        show_default=False,
    ),
]
EpochsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Of fine-tuning, at most ({_USUAL.epochs}); implies it.",
        show_default=False,
    ),
]
LearningRateOption = Annotated[
    float | None,
    typer.Option(
        help="Of fine-tuning; implies it, and is measured by default.", show_default=False
    ),
]
AugmentOption = Annotated[
    str | None,
    typer.Option(
        help=f"Views of each photo for fine-tuning ({_USUAL.views}), which are cached; 1: only "
        "itself; live: a new one in every epoch. Implies fine-tuning.",
        show_default=False,
    ),
]
