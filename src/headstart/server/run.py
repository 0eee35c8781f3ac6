"""From bundles to a server that listens, and ends in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from socket import socket
from types import FrameType
from typing import Any

import uvicorn

from headstart.server.app import create_app
from headstart.server.registry import Registry
from headstart.server.settings import Settings


class _Server(uvicorn.Server):
    """Says that it is not ready as soon as it is told to end."""

    registry: Registry
    told: Callable[[], None]

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.told()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.registry.is_draining = True
        super().handle_exit(sig, frame)


def serve(
    paths: Sequence[Path], settings: Settings, told: Callable[[], None], **options: Any
) -> None:
    """Answer until a signal ends it: new connections are refused, requests are finished.

    Args:
        paths: Of bundles.
        settings: Limits.
        told: Called once it listens.
        options: Of `uvicorn.Config`: ``host``, ``port``, ``ssl_certfile``, ``ssl_keyfile``.

    Raises:
        HeadstartError: A bundle cannot be used.
    """
    registry = Registry(paths, settings)
    config = uvicorn.Config(
        create_app(registry),
        timeout_graceful_shutdown=int(settings.drain_seconds),
        log_level="warning",
        server_header=False,
        **options,
    )
    server = _Server(config)
    server.registry, server.told = registry, told
    server.run()
