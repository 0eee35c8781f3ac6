"""A Ray cluster started on this machine, or joined: what it is told, and what it may say."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from headstart.engines.flights import shorten
from headstart.errors import HeadstartError

_LOGGER = logging.getLogger(__name__)

# Of a cluster of our own: it listens on 127.0.0.1 only (the variable's name is that of another
# purpose), and whoever wants to run code in it needs a token, which is in no file.
_PRIVATE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


def start(ray: Any, address: str) -> None:
    """Join the cluster at an address, or start one on this machine.

    Raises:
        HeadstartError: It cannot be reached or started.
    """
    # Its log lines would go between ours; a worker's traceback comes with its error.
    settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        settings |= {"num_cpus": os.cpu_count(), "include_dashboard": False}
    else:
        _check_port(address)
    try:
        with _keeping_handler():
            ray.init(address, **settings)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        if address == "local":
            raise HeadstartError(
                f"Ray could not be started on this machine: {shorten(error)}. Use the engine "
                "local, which needs no Ray."
            ) from error
        raise _unreachable(address, error) from error


@contextlib.contextmanager
def _keeping_handler() -> Iterator[None]:
    """What the program does on SIGTERM it does after the block, too.

    Ray sets a handler that exits, where a training would save its best model. Processes of a
    cluster of ours end with this one, however that ends.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Elsewhere neither Ray nor anybody else may set one; None is one that is not of Python.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _check_port(address: str) -> None:
    """Somebody listens there; Ray itself would try for minutes, and say so each second."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", or what Ray says is none
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError, ValueError) as error:  # such as a name that cannot be one
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> HeadstartError:
    return HeadstartError(
        f"No Ray cluster can be reached at {address}: {shorten(error)}. Needed is host:port "
        "of its head node, as ray start --head says it; and where the cluster has a token, "
        "that token in RAY_AUTH_TOKEN_PATH."
    )


@contextlib.contextmanager
def setting_environment(ray: Any, address: str) -> Iterator[None]:
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
def quietly(ray: Any) -> Iterator[None]:
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
