"""Independent fits on one matrix: side by side on the cores here, or on the engine in use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

from headstart.engines import Work, current_engine
from headstart.engines.local import LocalEngine
from headstart.errors import HeadstartError

# Fits on fewer photos take less than it takes to send them.
LEAST_SENT = 2000


@dataclass(frozen=True)
class Fits:
    """Fits that share what they compute from.

    An engine is sent it once, with its arrays, however often `map` is called.

    Attributes:
        solve: Gives a fit from its item: which rows, which strength.
        photos: Rows of the matrix.
    """

    solve: Callable[[Any], Any]
    photos: int

    def map(self, items: Iterable[Any]) -> list[Any]:
        """The fits of items, in their order.

        Raises:
            HeadstartError: A process that computed one ended with it.
        """
        engine = current_engine() if self.photos >= LEAST_SENT else LocalEngine()
        return list(engine.map(self.open, items, lost=_refuse, chunk=1))

    @contextlib.contextmanager
    def open(self, cores: int) -> Iterator[Work[Any, Any]]:
        """The work, wherever it runs.

        NumPy and SciPy each bring an OpenBLAS; alternating between two pools of spinning threads is
        five times slower than one thread. So each fit has one, and as many run as there are cores.
        """
        import scipy.optimize  # noqa: F401 - the limit only reaches libraries that are loaded
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(cores) as pool:
            yield lambda items: pool.map(self.solve, items)


def _refuse(item: Any, why: str) -> NoReturn:
    raise HeadstartError(f"A head could not be fitted: {why}. Run again, or with --engine local.")
