"""What a server may spend, and the errors that say so."""

from __future__ import annotations

import os
from dataclasses import dataclass

from headstart.evaluation.trust import COVERAGE, PRECISION


@dataclass(frozen=True)
class Settings:
    """Limits of a server.

    Attributes:
        queue: Photos that may wait or be computed at once; more are answered with 429.
        deadline_seconds: A request that has waited longer is answered with 504, uncomputed.
        body_bytes: Of a request; larger ones are answered with 413.
        files: In one request.
        photo_seconds: A photo that takes longer to decode is given up, with its process.
        drain_seconds: What requests that are being answered get when the server is stopped.
        token: Where given, requests need the header ``Authorization: Bearer TOKEN``.
        workers: Processes that decode and threads that compute.
        coverage: Of prediction sets.
        precision: Of sure answers.
    """

    queue: int = 64
    deadline_seconds: float = 30.0
    body_bytes: int = 32 * 2**20
    files: int = 32
    photo_seconds: float = 10.0
    drain_seconds: float = 30.0
    token: str | None = None
    workers: int = os.cpu_count() or 1
    coverage: float = COVERAGE
    precision: float = PRECISION


class RequestError(Exception):
    """What is answered instead of a result.

    Attributes:
        status: Of HTTP.
        reason: A sentence.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
