"""The contract of an engine."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

from headstart.engines import Engine, Work
from headstart.errors import HeadstartError
from headstart.testing.promises import require

_ITEMS, _CHUNK = 100, 8

# Items that a work does something with.
_REFUSED, _FATAL = "refuse", "end the process"


@contextlib.contextmanager
def _open_work(cores: int) -> Iterator[Work[Any, Any]]:
    """Numbers → pairs of the square, and the name of this opening."""
    require(cores >= 1, f"the work was given {cores} cores")
    opening = f"{os.getpid()} {os.urandom(8).hex()}"

    def run(items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if item == _REFUSED:
                raise HeadstartError("the work refuses this item")
            if item == _FATAL:
                os.abort()
            yield item * item, opening

    yield run


def _lose(item: Any, why: str) -> tuple[Any, str]:
    return item, why


def check_engine(engine: Engine) -> None:
    """Check that an engine keeps what `headstart.engines` promises.

    Results are complete and in the order of the items; items are taken as they are needed, also of
    an endless source; a work is opened at most once in each process; what it raises arrives as it
    is; after an end before the last item the engine goes on; tasks with all cores of a node give
    the same. Where items are sent to other
    processes, one that ends its process is lost alone.

    Args:
        engine: An open one; it stays open.

    Raises:
        AssertionError: With the promise that is broken.
    """
    expected = [number * number for number in range(_ITEMS)]
    pairs = list(_map(engine, range(_ITEMS)))
    found = [pair[0] for pair in pairs]
    require(sorted(found) == expected, f"{_ITEMS} items gave {len(found)} results, or other ones")
    require(found == expected, "the results are not in the order of the items")
    openings = {pair[1] for pair in pairs}
    processes = {name.partition(" ")[0] for name in openings}
    require(
        len(openings) == len(processes),
        f"{len(processes)} processes opened the work {len(openings)} times",
    )
    require(engine.nodes >= 1, f"the engine has {engine.nodes} nodes")
    squares = [pair[0] for pair in _map(engine, range(3), by_node=True)]
    require(squares == [0, 1, 4], "tasks with all cores of a node gave other results")
    _check_taking(engine)
    _check_error(engine)
    if engine.is_remote:
        _check_loss(engine)
    require(list(_map(engine, ())) == [], "no items gave results")


def _map(engine: Engine, items: Iterable[Any], by_node: bool = False) -> Any:
    return engine.map(_open_work, items, lost=_lose, chunk=_CHUNK, by_node=by_node)


def _check_taking(engine: Engine) -> None:
    taken = itertools.count()

    def count() -> Iterator[int]:
        for number in itertools.count():
            next(taken)
            require(number < 100_000, "an endless source was taken from without end")
            yield number

    with contextlib.closing(_map(engine, count())) as results:
        require(next(results)[0] == 0, "the first result is not of the first item")
    most = _CHUNK * (8 * engine.slots + 8)
    require(next(taken) <= most, f"for one result more than {most} items were taken")


def _check_error(engine: Engine) -> None:
    try:
        list(_map(engine, [*range(20), _REFUSED, *range(20)]))
    except HeadstartError as error:
        require(
            str(error) == "the work refuses this item", f"an error arrived as another one: {error}"
        )
    else:
        require(False, "what the work raised did not arrive")


def _check_loss(engine: Engine) -> None:
    items = [*range(20), _FATAL, *range(20, 40)]
    found = [pair[0] for pair in _map(engine, items)]
    expected = [number * number for number in range(40)]
    require(
        found == [*expected[:20], _FATAL, *expected[20:]],
        "an item that ended its process took others with it, or was not given up",
    )
