"""Options of ``train`` that say what is trained, and how."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeOption = Annotated[
    str, typer.Option(help="What is trained: probe (the head), or tune (also --unfreeze).")
]
UnfreezeOption = Annotated[
    str | None,
    typer.Option(
        help="What of the backbone is trained: last_block, last_2_blocks, half, a block's name, a "
        "number of layers, a regular expression, all. Implies --recipe tune.",
        show_default=False,
    ),
]
EpochsOption = Annotated[
    int | None, typer.Option(min=1, help="Of fine-tuning, at most.", show_default=False)
]
LearningRateOption = Annotated[
    float | None, typer.Option(help="Of fine-tuning; measured by default.", show_default=False)
]
AugmentOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Views of each photo for fine-tuning; 1: only itself.",
        show_default=False,
    ),
]
