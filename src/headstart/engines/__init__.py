"""Where tasks run: one file each, one table. An engine knows nothing of photos.

Whoever has much to do writes it as a stream: a function that is given items and yields a result for
each, or for several. `Engine.map` gives it all of them (``local``: it runs in this process, and
uses all of its cores by itself) or cuts them into chunks that are computed elsewhere (``ray``).
What is computed must not depend on the cut; the results come in the order of the items.

The engine is not handed from function to function: `use_engine` sets it for all that is called
within the block, as ``joblib.parallel_config`` does.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from headstart.engines.local import LocalEngine
from headstart.errors import HeadstartError, did_you_mean, require_package

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items → results, in their order; it may look ahead.
Work = Callable[[Iterable[Item]], Iterable[Result]]

# What opens a work where it runs, given the cores that it may use there: sessions and processes
# stay open for many chunks.
OpenWork = Callable[[int], contextlib.AbstractContextManager[Work[Item, Result]]]

LOCAL = "local"

# Ray counts resources in such parts.
_LEAST_SHARE = 0.0001


class Engine(Protocol):
    """Where work runs; held to it by `headstart.testing.check_engine`.

    Attributes:
        name: Of its row in `ENGINES`.
        is_remote: Whether work and items leave this process, and so must be such as can be pickled.
        slots: How many chunks are computed at once; it may change while nodes come and go.
        nodes: How many are where each has all cores of a node.
        gpus: The share of a GPU that each chunk is given, or None.
    """

    name: str
    is_remote: bool
    gpus: float | None

    @property
    def slots(self) -> int:
        """See above."""

    @property
    def nodes(self) -> int:
        """See above."""

    def map(
        self,
        open_work: OpenWork[Item, Result],
        items: Iterable[Item],
        *,
        lost: Callable[[Item, str], Result],
        chunk: int,
        by_node: bool = False,
    ) -> Generator[Result]:
        """Results of work on items, in the order of the items, while later ones are computed.

        Args:
            open_work: Opens the work, where it runs. The one that was mapped last stays there:
                mapped again, it is not sent again.
            items: Consumed as results are taken: not many more are in memory than are computed.
            lost: What stands for an item that ended the process it was computed in; with a reason.
            chunk: How many items are computed by one task, where they are sent elsewhere.
            by_node: A task has all cores of a node, instead of one core: for work that uses them
                and takes much to open.

        Raises:
            HeadstartError: The nodes are gone, or no work gets done there; and what work raises.
        """

    def close(self) -> None:
        """End what was started."""


@dataclass(frozen=True)
class EngineKind:
    """A row of the table.

    Attributes:
        name: As the user writes it.
        packages: What must be installed.
        open: ``(address, gpus) → engine``: of a cluster which runs already; and what of a GPU each
            task asks for.
    """

    name: str
    packages: tuple[str, ...]
    open: Callable[[str | None, float | None], Engine]


def _open_ray(address: str | None, gpus: float | None) -> Engine:
    from headstart.engines.ray_engine import RayEngine

    return RayEngine(address, gpus)


ENGINES: dict[str, EngineKind] = {
    kind.name: kind
    for kind in (
        EngineKind(LOCAL, (), lambda *_: LocalEngine()),
        EngineKind("ray", ("ray",), _open_ray),
    )
}

_CURRENT: ContextVar[Engine | None] = ContextVar("engine", default=None)


def current_engine() -> Engine:
    """The engine of the `use_engine` block that this runs in, else the local one."""
    return _CURRENT.get() or LocalEngine()


def require_engine(
    engine: str | Engine | None, address: str | None = None, gpus: float | None = None
) -> None:
    """Raise what `use_engine` raises before it starts anything: before any time is spent."""
    if not isinstance(engine, str):
        return
    if engine not in ENGINES:
        raise HeadstartError(
            f"{engine!r} is not a known engine.{did_you_mean(engine, ENGINES)} "
            f"Known: {', '.join(ENGINES)}."
        )
    if address is not None and engine == LOCAL:
        raise HeadstartError(
            f"The address {address} is that of a cluster, but the engine is {LOCAL}. "
            "Say also: --engine ray."
        )
    if gpus is not None and engine == LOCAL:
        raise HeadstartError(
            f"A share of {gpus:g} GPUs is asked for by tasks of a cluster, but the engine is "
            f"{LOCAL}. Say also: --engine ray."
        )
    if gpus is not None and not _is_share(gpus):
        raise HeadstartError(
            f"{gpus:g} is no share of a GPU; accepted are numbers from {_LEAST_SHARE:g} to 1, and "
            "whole ones."
        )
    packages = ENGINES[engine].packages
    if packages:
        require_package(*packages, purpose=f"the engine {engine}")


def _is_share(gpus: float) -> bool:
    return math.isfinite(gpus) and gpus >= _LEAST_SHARE and (gpus < 1 or gpus == int(gpus))


@contextlib.contextmanager
def use_engine(
    engine: str | Engine | None, *, address: str | None = None, gpus: float | None = None
) -> Iterator[Engine]:
    """What is extracted, predicted and fitted within the block runs on this engine.

    Args:
        engine: ``"local"``, ``"ray"``, or an object such as `Engine`, which is not closed. None, or
            the name of the one that is in use: that one, and nothing is started.
        address: ``host:port`` of a Ray cluster that runs already. Without it, and without
            ``RAY_ADDRESS`` in the environment, a cluster is started on this machine and ended with
            the block.
        gpus: The share of a GPU that each task asks for, such as 0.25, so that tasks run only on
            nodes that have one, where the runtime is ``"tensorflow"``: no other uses it.

    Raises:
        MissingPackageError: Ray is not installed.
        HeadstartError: Unknown name, or the cluster cannot be reached, or has no such GPU.

    >>> with use_engine("local") as engine:
    ...     engine.name
    'local'
    """
    require_engine(engine, address, gpus)
    used = current_engine()
    if engine is None or (engine == used.name and address is None and gpus is None):
        yield used
        return
    with contextlib.ExitStack() as stack:
        if isinstance(engine, str):
            engine = stack.enter_context(contextlib.closing(ENGINES[engine].open(address, gpus)))
        before = _CURRENT.set(engine)
        try:
            yield engine
        finally:
            _CURRENT.reset(before)


def check_is_seen(path: Path, reason: str) -> None:
    """Refuse nodes that do not see the user's files: else every file would be a problem.

    Args:
        path: Of a file that could not be read where it was to be computed.
        reason: Why.

    Raises:
        HeadstartError: It was not found there, but is here.
    """
    if not current_engine().is_remote or os.strerror(errno.ENOENT) not in reason:
        return
    if path.exists():
        raise HeadstartError(
            f"{path} is on this machine, but a node of the cluster does not find it. Put the files "
            "into a folder that all nodes see under the same path (a network file system), or use "
            "the engine local."
        )


_Method = TypeVar("_Method", bound=Callable[..., Any])


def on_engine(function: _Method) -> _Method:
    """A method that runs on the engine which its object has as ``engine``."""

    @functools.wraps(function)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with use_engine(self.engine):
            return function(self, *args, **kwargs)

    return cast(_Method, run)
