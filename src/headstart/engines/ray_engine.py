"""Ray: chunks of items as tasks on the nodes of a cluster, or on one that is started here.

Tasks rather than actors: whatever ends a worker then says which chunk it was at and whether the
node went with it, and nodes that join are used at once. Ray places tasks, watches nodes and moves
objects; what is ours: how many tasks are on their way, and what becomes of a chunk whose worker
died. A chunk of a lost node is computed again. One that ended its worker twice is halved, until a
single item is left that did it.

A work is put into Ray's object store once, with the arrays in it, and opened once in each worker
process; it stays open there until a task of another work comes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from headstart import __version__
from headstart.engines.flights import DiedError, Flights, shorten
from headstart.engines.ray_cluster import quietly, setting_environment, start
from headstart.errors import HeadstartError, require_package

if TYPE_CHECKING:
    from headstart.engines import OpenWork

Item = TypeVar("Item")
Result = TypeVar("Result")

# How long a cluster may have no node to compute on.
_PATIENCE = 120.0

# Whoever asks for slots after a longer pause has not waited for them: a map asks each second.
_PAUSE = 10.0


class RayEngine:
    """See `headstart.engines.Engine`.

    Args:
        address: ``host:port`` of a cluster; by default that of ``RAY_ADDRESS``, else a cluster is
            started on this machine, of all its cores.
        gpus: What of a GPU each task asks for.

    Raises:
        MissingPackageError: Ray is not installed.
        HeadstartError: The cluster cannot be reached or started, or has no such GPU.
    """

    name = "ray"
    is_remote = True

    def __init__(self, address: str | None = None, gpus: float | None = None) -> None:
        require_package("ray", purpose="the engine ray")
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        if address.startswith("ray://"):
            raise HeadstartError(
                f"{address} is an address of Ray Client, which is not supported. Run the command "
                "on a node of the cluster, or with ray job submit, with the address host:port."
            )
        self._address, self.gpus = address, gpus
        self._ray: Any = None
        self._task: Any = None
        self._last: tuple[Any, Any] = None, None
        self._asked = self._seen = -math.inf  # when slots were asked for, and were there
        self._left = contextlib.ExitStack()  # what is put back when it closes
        if address != "local":  # one of our own is started when there is something to do
            self._connect()

    def _connect(self) -> None:
        import ray

        address = self._address
        if not ray.is_initialized():
            with contextlib.ExitStack() as stack:
                stack.enter_context(setting_environment(ray, address))
                stack.enter_context(quietly(ray))
                start(ray, address)
                stack.callback(ray.shutdown)
                self._left = stack.pop_all()
        elif address not in ("local", "auto", ray.get_runtime_context().gcs_address):
            raise HeadstartError(
                f"This program is connected to the Ray cluster at "
                f"{ray.get_runtime_context().gcs_address} already, and not to {address}. "
                "Leave the address out, or call ray.shutdown() first."
            )
        # Without max_calls Ray ends a worker that used a GPU after one task.
        remote = ray.remote(
            num_gpus=self.gpus, max_retries=0, max_calls=0, scheduling_strategy="SPREAD"
        )
        self._ray, self._task = ray, remote(_run)
        if self.gpus:
            self._check_gpus(self.gpus)

    def _check_gpus(self, wanted: float) -> None:
        """Refuse what no node has: Ray would wait for one to come."""
        nodes = (node["Resources"] for node in self._ray.nodes() if node["Alive"])
        most = max((resources.get("GPU", 0) for resources in nodes), default=0)
        if most < wanted:
            self.close()
            raise HeadstartError(
                f"Each task shall have {wanted:g} GPUs, but no node of the Ray cluster has more "
                f"than {most:g}. Leave the GPUs out, or start nodes with some (ray start "
                "--address=… --num-gpus=…) and run again."
            )

    @property
    def nodes(self) -> int:
        """Times that all cores of the smallest node are there: one each where all are alike."""
        if self._ray is None:  # one on this machine
            return 1
        cores = self.list_cores()
        return sum(count // min(cores) for count in cores) or 1

    def list_cores(self) -> list[int]:
        """Cores of each node that can hold a task."""
        return [int(node["CPU"]) for node in self._list_nodes()]

    def _list_nodes(self) -> list[dict[str, float]]:
        """Resources of each node that can hold a task."""
        alive = (node["Resources"] for node in self._ray.nodes() if node["Alive"])
        return [resources for resources in alive if _count_tasks(resources, self.gpus)]

    @property
    def slots(self) -> int:
        """Tasks of one core that the nodes hold at once, one at least.

        Raises:
            HeadstartError: It has had none for some time.
        """
        if self._ray is None:
            return os.cpu_count() or 1
        now, before = time.monotonic(), self._asked
        self._asked = now
        slots = sum(_count_tasks(resources, self.gpus) for resources in self._list_nodes())
        if slots or now - before > _PAUSE:
            self._seen = now
        elif now - self._seen > _PATIENCE:
            share = f" with {self.gpus:g} GPUs" if self.gpus else ""
            raise HeadstartError(
                f"The Ray cluster has had no core{share} to compute on for {_PATIENCE:.0f} s. What "
                "was computed is kept. Start its nodes (ray start --address=…) and run again."
            )
        return slots or 1

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
        if self._ray is None:
            self._connect()
        if open_work != self._last[0]:
            held = self._ray.put(_Sent(open_work, _list_versions(), str(Path.cwd())))
            self._last = open_work, held
        work = [self._last[1]]  # in a list Ray leaves it a reference
        flights = Flights(_ByNode(self) if by_node else self, work, lost)
        try:
            yield from flights.follow(iter(items), chunk)
        finally:
            self.cancel(flights.flying)

    def start(self, work: list[Any], items: list[Any], *, cores: int = 1, reserved: int = 1) -> Any:
        """A task on its way: the reference of what it will give.

        Args:
            work: The reference of it.
            items: For it.
            cores: That it uses.
            reserved: Those of them that Ray keeps for it.
        """
        return self._task.options(num_cpus=reserved).remote(work, items, cores)

    def wait(self, references: list[Any]) -> list[Any]:
        """Those that are done, after a second at most."""
        done, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        if not done:
            done, _ = self._ray.wait(references, timeout=1.0)
        return list(done)

    def fetch(self, reference: Any) -> Any:
        """What a task gave.

        Raises:
            DiedError: With what it died of.
            HeadstartError: What the work raised, or Ray can go on no more.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError) as error:
            raise DiedError(is_guilty=False) from error
        except errors.OutOfMemoryError as error:
            raise DiedError(is_guilty=False, is_large=True) from error
        except errors.WorkerCrashedError as error:
            raise DiedError(is_guilty=True) from error
        except errors.RayError as error:
            cause = getattr(error, "cause", None) or error
            if not isinstance(cause, errors.RayError):  # what the work raised
                raise cause from error
            raise HeadstartError(
                f"Ray cannot go on: {shorten(cause)}. The same Headstart must be installed on all "
                "nodes. What was computed is kept; run again."
            ) from error

    def cancel(self, references: Iterable[Any]) -> None:
        """End tasks whose results nobody wants; nothing, where the engine is closed already."""
        if self._ray is None:
            return
        for reference in references:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference)

    def close(self) -> None:
        """End the cluster, or leave it; one that the program was connected to before stays so."""
        self._ray, self._last = None, (None, None)
        self._left.close()


class _ByNode:
    """`headstart.engines.flights.Tasks` that have all cores of a node."""

    def __init__(self, engine: RayEngine) -> None:
        self._engine = engine
        self._reserved: dict[Any, int] = {}  # cores, by the reference of a task

    @property
    def slots(self) -> int:
        return min(self._engine.nodes, self._engine.slots)  # which fails when none come back

    def start(self, work: list[Any], items: list[Any]) -> Any:
        """A task on as many cores as the smallest node has.

        More than half of them are reserved: no other such task fits beside it there, but what
        others run on the cluster does not keep it waiting.
        """
        cores = min(self._engine.list_cores(), default=1)
        reserved = cores // 2 + 1
        reference = self._engine.start(work, items, cores=cores, reserved=reserved)
        self._reserved[reference] = reserved
        return reference

    def wait(self, references: list[Any]) -> list[Any]:
        """Those that are done; else those that no node which is left has the cores for.

        Ray would wait for one to come. Where no node is left, so does the engine, for some time.
        """
        done = self._engine.wait(references)
        cores = [] if done else self._engine.list_cores()
        if not cores:
            return done
        lost = [each for each in references if self._reserved[each] > max(cores)]
        self._engine.cancel(lost)
        for reference in lost:
            del self._reserved[reference]
        return lost

    def fetch(self, reference: Any) -> Any:
        if self._reserved.pop(reference, None) is None:
            raise DiedError(is_guilty=False)
        return self._engine.fetch(reference)


def _count_tasks(resources: dict[str, float], gpus: float | None) -> int:
    """How many tasks of one core, each with a share of a GPU or some, a node holds at once.

    >>> _count_tasks({"CPU": 8.0, "GPU": 2.0}, 0.4)
    4
    """
    cores, devices = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if gpus is None:
        return cores
    # What is left of several GPUs does not add up to a share.
    return min(cores, devices * int(1 / gpus) if gpus < 1 else int(devices / gpus))


# What must be the same wherever something is computed, for the results to be.
_PACKAGES = ("headstart", "numpy", "onnxruntime", "pillow", "scipy")


def _list_versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {**found, "headstart": __version__}


@dataclass(frozen=True)
class _Sent:
    """A work on its way to the nodes, with what is checked there."""

    open_work: Callable[[int], Any]
    versions: dict[str, str]
    folder: str

    def open(self, cores: int) -> None:
        """Open it in this process, for so many cores."""
        here = _list_versions()
        for name, version in self.versions.items():
            if here.get(name) != version:
                raise HeadstartError(
                    f"The node {socket.gethostname()} has {name} {here.get(name, 'not at all')}; "
                    f"the run was begun with {version}, and results may differ. Install the same "
                    "versions on all nodes."
                )
        # TensorFlow would take all memory of a GPU, which others have a share of.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        with contextlib.suppress(OSError):  # paths that the user gave may be relative
            os.chdir(self.folder)
        stack = contextlib.ExitStack()
        _OPEN[:] = [stack, stack.enter_context(self.open_work(cores))]


# In a worker process: what closes the work that is open, it, and the name of its reference.
_OPEN: list[Any] = []


def _run(work: list[Any], items: list[Any], cores: int = 1) -> list[Any]:
    """A task: the results of a work on some items, with so many cores."""
    import ray

    [reference] = work
    name = reference.hex()
    if _OPEN and _OPEN[-1] != name:
        _OPEN[0].close()
        _OPEN.clear()
    if not _OPEN:
        ray.get(reference).open(cores)
        _OPEN.append(name)
    return list(_OPEN[1](items))
