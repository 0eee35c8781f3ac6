"""This process: a work is given all items at once, and uses the cores by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from headstart.engines import OpenWork

Item = TypeVar("Item")
Result = TypeVar("Result")


class LocalEngine:
    """See `headstart.engines.Engine`.

    >>> import contextlib
    >>> double = contextlib.nullcontext(lambda numbers: (2 * number for number in numbers))
    >>> list(LocalEngine().map(lambda cores: double, range(3), lost=max, chunk=1))
    [0, 2, 4]
    """

    name = "local"
    is_remote = False
    gpus: float | None = None

    @property
    def slots(self) -> int:
        """How many photos or fits are computed at once."""
        return os.cpu_count() or 1

    @property
    def nodes(self) -> int:
        """This machine."""
        return 1

    def map(
        self,
        open_work: OpenWork[Item, Result],
        items: Iterable[Item],
        *,
        lost: Callable[[Item, str], Result],
        chunk: int,
        by_node: bool = False,
    ) -> Generator[Result]:
        """Results of work on items, see `headstart.engines.Engine`."""
        with open_work(self.slots) as work:
            yield from work(items)

    def close(self) -> None:
        """Nothing was started."""
