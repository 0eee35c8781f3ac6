"""Chunks of items that are computed elsewhere: how many at once, and what becomes of the lost.

Nothing in here knows what computes them; `Tasks` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from headstart.errors import HeadstartError

# Tasks on their way per core: one is computed, the next one has arrived.
_FLIGHTS = 2

# Chunks per core that are on their way or wait for one before them.
_AHEAD = 4

# How often a chunk is computed again that was lost with its node, or for want of memory.
_MOST_RETRIES = 10

# Deaths of workers with no chunk finished between them: it is not the items that do it.
_MOST_DEATHS = 24


class Tasks(Protocol):
    """What computes chunks; a task is known by a reference."""

    @property
    def slots(self) -> int:
        """How many are computed at once."""

    def start(self, work: Any, items: list[Any]) -> Any:
        """A task on its way: its reference."""

    def wait(self, references: list[Any]) -> list[Any]:
        """Those of them that are done; perhaps none, after a second."""

    def fetch(self, reference: Any) -> Sequence[Any]:
        """The results of a task that is done.

        Raises:
            DiedError: It has none.
        """


class DiedError(Exception):
    """A task ended without a result.

    Attributes:
        is_guilty: Its process ended; else the node did, or memory was short.
        is_large: Memory was short.
    """

    def __init__(self, *, is_guilty: bool, is_large: bool = False) -> None:
        self.is_guilty, self.is_large = is_guilty, is_large


@dataclass(eq=False)
class _Chunk:
    """Some items in the order of all; ``results`` once they are there."""

    items: list[Any]
    deaths: int = 0
    retries: int = 0
    results: Sequence[Any] | None = None


@dataclass
class Flights:
    """The chunks of one call of `map` that are computed, or wait for one before them."""

    tasks: Tasks
    work: Any
    lost: Callable[[Any, str], Any]
    flying: dict[Any, _Chunk] = field(default_factory=dict)
    _window: list[_Chunk] = field(default_factory=list)
    _deaths: int = 0

    def follow(self, source: Iterator[Any], size: int) -> Iterator[Any]:
        """The results of all items, in chunks of a size; no more are taken than are needed."""
        while True:
            slots = self.tasks.slots
            while len(self.flying) < _FLIGHTS * slots and len(self._window) < _AHEAD * slots:
                items = list(islice(source, size))
                if not items:
                    break
                self._window.append(_Chunk(items))
                self._send(self._window[-1])
            if not self._window:
                return
            yield from self._take()

    def _take(self) -> Iterator[Any]:
        """Wait for some chunks; the results of those that have none before them any more."""
        for reference in self.tasks.wait(list(self.flying)) if self.flying else ():
            chunk = self.flying.pop(reference)
            try:
                chunk.results = self.tasks.fetch(reference)
                self._deaths = 0
            except DiedError as death:
                self._send_again(chunk, death)
        while self._window and self._window[0].results is not None:
            yield from self._window.pop(0).results or ()

    def _send(self, chunk: _Chunk) -> None:
        self.flying[self.tasks.start(self.work, chunk.items)] = chunk

    def _send_again(self, chunk: _Chunk, death: DiedError) -> None:
        if not death.is_guilty:
            chunk.retries += 1
            if not death.is_large and chunk.retries > _MOST_RETRIES:
                raise HeadstartError(
                    f"The Ray cluster lost the same task {chunk.retries} times with its nodes. "
                    "What was computed is kept; run again when its nodes stay."
                ) from death
            if not death.is_large or chunk.retries < 3:
                self._send(chunk)
                return
        self._deaths += 1
        if self._deaths > _MOST_DEATHS:
            raise HeadstartError(
                f"{self._deaths} worker processes of Ray ended one after the other, and nothing "
                f"was computed between them: {shorten(death.__cause__ or death)}. Try the engine "
                "local; and see the logs of the nodes, in /tmp/ray/session_latest/logs."
            ) from death
        chunk.deaths += 1
        if chunk.deaths == 1 and not death.is_large:  # something else may have ended it
            self._send(chunk)
        elif len(chunk.items) == 1:
            cause = "ran out of memory" if death.is_large else "crashed"
            chunk.results = [self.lost(chunk.items[0], f"the process that computed it {cause}")]
        else:
            self._halve(chunk)

    def _halve(self, chunk: _Chunk) -> None:
        middle = (len(chunk.items) + 1) // 2
        halves = [_Chunk(chunk.items[:middle], 1), _Chunk(chunk.items[middle:], 1)]
        place = self._window.index(chunk)
        self._window[place : place + 1] = halves
        for half in halves:
            self._send(half)


def shorten(error: BaseException) -> str:
    """The first line of another library's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
