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
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from headstart import __version__
from headstart.engines.flights import DiedError, Flights, shorten
from headstart.errors import HeadstartError, require_package

if TYPE_CHECKING:
    from headstart.engines import OpenWork

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOGGER = logging.getLogger(__name__)

# How long a cluster may have no node to compute on.
_PATIENCE = 120.0

# Of a cluster of our own: it listens on 127.0.0.1 only (the variable's name is that of another
# purpose), and whoever wants to run code in it needs a token, which is in no file.
_PRIVATE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


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
        self._left = contextlib.ExitStack()  # what is put back when it closes
        if address != "local":  # one of our own is started when there is something to do
            self._connect()

    def _connect(self) -> None:
        import ray

        address = self._address
        if not ray.is_initialized():
            with contextlib.ExitStack() as stack:
                stack.enter_context(_setting_environment(ray, address))
                stack.enter_context(_quietly(ray))
                _start(ray, address)
                stack.callback(ray.shutdown)
                self._left = stack.pop_all()
        elif address not in ("local", "auto", ray.get_runtime_context().gcs_address):
            raise HeadstartError(
                f"This program is connected to the Ray cluster at "
                f"{ray.get_runtime_context().gcs_address} already, and not to {address}. "
                "Leave the address out, or call ray.shutdown() first."
            )
        # Without max_calls Ray ends a worker that used a GPU after one task.
        remote = ray.remote(num_cpus=1, max_retries=0, max_calls=0, scheduling_strategy="SPREAD")
        self._ray, self._task, self._seen = ray, remote(_run), time.monotonic()
        if self.gpus:
            self._task = self._task.options(num_gpus=self.gpus)
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
    def slots(self) -> int:
        """Cores of the cluster, or what its GPUs allow, one at least.

        Raises:
            HeadstartError: It has had none for some time.
        """
        if self._ray is None:
            return os.cpu_count() or 1
        now = time.monotonic()
        resources = self._ray.cluster_resources()
        cores = int(resources.get("CPU", 0))
        if self.gpus:  # shares of one do not add up to another
            shares = max(1, int(1 / self.gpus)) / max(1, self.gpus)
            cores = min(cores, int(resources.get("GPU", 0) * shares))
        if cores:
            self._seen = now
        elif now - self._seen > _PATIENCE:
            raise HeadstartError(
                f"The Ray cluster has had no core to compute on for {_PATIENCE:.0f} s. What was "
                "computed is kept. Start its nodes (ray start --address=…) and run again."
            )
        return cores or 1

    def map(
        self,
        open_work: OpenWork[Item, Result],
        items: Iterable[Item],
        *,
        lost: Callable[[Item, str], Result],
        chunk: int,
    ) -> Generator[Result]:
        """Results of work on items, see `headstart.engines.Engine`."""
        if self._ray is None:
            self._connect()
        if open_work != self._last[0]:
            held = self._ray.put(_Sent(open_work, _list_versions(), str(Path.cwd())))
            self._last = open_work, held
        work = [self._last[1]]  # in a list Ray leaves it a reference
        flights = Flights(self, work, lost)
        try:
            yield from flights.follow(iter(items), chunk)
        finally:
            self.cancel(flights.flying)

    def start(self, work: list[Any], items: list[Any]) -> Any:
        """A task on its way: the reference of what it will give."""
        return self._task.remote(work, items)

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
        """End tasks whose results nobody wants."""
        for reference in references:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference)

    def close(self) -> None:
        """End the cluster, or leave it; one that the program was connected to before stays so."""
        self._ray, self._last = None, (None, None)
        self._left.close()


def _start(ray: Any, address: str) -> None:
    # Its log lines would go between ours; a worker's traceback comes with its error.
    settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        settings |= {"num_cpus": os.cpu_count(), "include_dashboard": False}
    else:
        _check_port(address)
    try:
        ray.init(address, **settings)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        if address == "local":
            raise HeadstartError(
                f"Ray could not be started on this machine: {shorten(error)}. Use the engine "
                "local, which needs no Ray."
            ) from error
        raise _unreachable(address, error) from error


def _check_port(address: str) -> None:
    """Somebody listens there; Ray itself would try for minutes, and say so each second."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", or what Ray says is none
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> HeadstartError:
    return HeadstartError(
        f"No Ray cluster can be reached at {address}: {shorten(error)}. Needed is host:port "
        "of its head node, as ray start --head says it; and where the cluster has a token, "
        "that token in RAY_AUTH_TOKEN_PATH."
    )


@contextlib.contextmanager
def _setting_environment(ray: Any, address: str) -> Iterator[None]:
    """The settings of a cluster, where Ray and the processes that it starts look for them."""
    wanted = {"RAY_USAGE_STATS_ENABLED": "0"}
    if address == "local":
        wanted |= _PRIVATE
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
            wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    before = {name: os.environ.get(name) for name in wanted}
    constants = ray._private.ray_constants
    is_open = constants.ENABLE_RAY_CLUSTER
    os.environ.update(wanted)
    try:
        # It has read the environment when it was imported, and has perhaps looked for a token.
        constants.ENABLE_RAY_CLUSTER = is_open and address != "local"
        _forget_token(ray)
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = is_open
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _forget_token(ray: Any) -> None:
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _quietly(ray: Any) -> Iterator[None]:
    """Ray's words on dead workers go to our log.

    It prints them to stdout, whatever ``log_to_driver`` is, between the rows of a CSV.
    """
    printer = ray._private.worker
    before = printer.print_to_stdstream

    def log(data: dict[str, Any], ignore_prefix: bool) -> None:
        _LOGGER.info("Ray: %s", " ".join(data["lines"]))

    printer.print_to_stdstream = log
    try:
        yield
    finally:
        printer.print_to_stdstream = before


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

    def open(self) -> None:
        """Open it in this process."""
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
        # A task has one core.
        _OPEN[:] = [stack, stack.enter_context(self.open_work(1))]


# In a worker process: what closes the work that is open, it, and the name of its reference.
_OPEN: list[Any] = []


def _run(work: list[Any], items: list[Any]) -> list[Any]:
    """A task: the results of a work on some items."""
    import ray

    [reference] = work
    name = reference.hex()
    if _OPEN and _OPEN[-1] != name:
        _OPEN[0].close()
        _OPEN.clear()
    if not _OPEN:
        ray.get(reference).open()
        _OPEN.append(name)
    return list(_OPEN[1](items))
