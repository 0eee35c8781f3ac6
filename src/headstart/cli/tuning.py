"""What is shown of fine-tuning: its price, a row per epoch, what was trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from headstart.cli.output import percent, stderr, stdout
from headstart.evaluation.intervals import wilson

if TYPE_CHECKING:
    from headstart.training.loop import Epoch
    from headstart.training.tuning import Tuning


@contextmanager
def show_log() -> Iterator[None]:
    """What the library logs, such as the price of views before they are computed, on stderr."""
    handler, logger = _Lines(), logging.getLogger("headstart")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        stderr().print(escape(record.getMessage()), soft_wrap=True)


def print_epoch(epoch: Epoch) -> None:
    """A row of the live table of fine-tuning, on stderr."""
    console = stderr()
    if epoch.number == 1:
        console.print(f"[bold]{escape(epoch.run)}[/]", soft_wrap=True)
    held_out = ""
    if epoch.validation_loss is not None and epoch.validation_accuracy is not None:
        share, photos = epoch.validation_accuracy, epoch.validation_photos
        shown = f"{share:.1%}"
        if epoch.measure == "accuracy":
            shown = percent(wilson(round(share * photos), photos))
        held_out = f"held out: loss {epoch.validation_loss:.3f}, {epoch.measure} {shown}, "
    left = (epoch.epochs - epoch.number) * epoch.seconds
    console.print(
        f"  {epoch.number:>3}/{epoch.epochs}  loss {epoch.loss:.3f}, {epoch.measure} "
        f"{epoch.accuracy:.1%}, {held_out}rate {epoch.learning_rate:.1e}, {epoch.seconds:.1f} s, "
        f"{left:.0f} s left",
        soft_wrap=True,
    )


def print_tuning(tuning: Tuning) -> None:
    """What was trained and what was frozen, and what came of it."""
    from headstart.models.boundary import INPUT

    console = stdout()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("part")
    for name in ("layers", "trained", "frozen"):
        table.add_column(name, justify="right")
    frozen = [row for row in tuning.parameters if not row.trainable]
    if frozen:
        layers, parameters = sum(r.layers for r in frozen), sum(r.frozen for r in frozen)
        table.add_row(f"{frozen[0].name} … {frozen[-1].name}", str(layers), "0", f"{parameters:,}")
    for row in tuning.parameters:
        if row.trainable:
            table.add_row(row.name, str(row.layers), f"{row.trainable:,}", f"{row.frozen:,}")
    console.print(table)
    boundary = tuning.unfreeze.boundary
    shape = " × ".join(map(str, boundary.shape))
    if boundary.name == INPUT:
        console.print("nothing is frozen, and so nothing is cached")
    else:
        console.print(
            f"cached up to {escape(boundary.name)} ({shape}), {boundary.share_before:.0%} of the "
            f"multiply-adds: {tuning.cached_bytes / 1e6:,.0f} MB in "
            f"{sum(tuning.seconds.values()):,.1f} s",
            soft_wrap=True,
        )
    console.print(escape(tuning.says), soft_wrap=True)
