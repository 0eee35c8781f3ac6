"""The application: routes, limits, errors."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import signal
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headstart import __version__
from headstart.errors import HeadstartError
from headstart.server import protocol_v1, protocol_v2, web
from headstart.server.bodies import Answer
from headstart.server.registry import Registry
from headstart.server.settings import RequestError

_LOGGER = logging.getLogger(__name__)

# Answered without a token: what orchestrators ask, and the page, which asks for the token itself.
_OPEN = ("/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")


def create_app(registry: Registry) -> FastAPI:
    """The application of some models."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        registry.start()
        with _reloading(registry):
            yield
        registry.is_draining = True
        await registry.stop()

    app = FastAPI(
        title="Headstart",
        version=__version__,
        summary="Photos in, classes out.",
        lifespan=lifespan,
        default_response_class=Answer,
    )
    for module in (web, protocol_v1, protocol_v2):  # the first is found first
        app.include_router(module.make_router(registry))
    app.add_exception_handler(RequestError, _answer_request_error)
    app.add_exception_handler(RequestValidationError, _answer_parameter_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(HeadstartError, _answer_failure)
    app.add_exception_handler(Exception, _answer_failure)
    app.add_middleware(Guard, registry=registry)
    return app


@contextlib.contextmanager
def _reloading(registry: Registry) -> Any:
    """SIGHUP loads the bundles again, where there is such a signal and this is the main thread."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(
            signal.SIGHUP, lambda: asyncio.ensure_future(registry.reload(), loop=loop)
        )
    except (AttributeError, NotImplementedError, RuntimeError, ValueError):
        yield
        return
    yield
    loop.remove_signal_handler(signal.SIGHUP)


async def _answer_request_error(_: Request, error: Any) -> Answer:
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    return Answer({"error": error.reason}, error.status, headers)


async def _answer_parameter_error(_: Request, error: Any) -> Answer:
    first = error.errors()[0]
    return Answer({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}."}, 400)


async def _answer_http_error(_: Request, error: Any) -> Answer:
    return Answer({"error": str(error.detail)}, error.status_code, error.headers)


async def _answer_failure(_: Request, error: Any) -> Answer:
    _LOGGER.exception("a request failed", exc_info=error)
    return Answer({"error": "The server failed; its log says why."}, 500)


class Guard:
    """Tokens and sizes, checked before anything is read; requests are counted."""

    def __init__(self, app: ASGIApp, registry: Registry) -> None:
        self._app, self._registry = app, registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, self._count(receive), note)
        except RequestError as error:  # of this guard: inside, errors are answered already
            await (await _answer_request_error(None, error))(scope, receive, note)  # type: ignore[arg-type]
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._registry.metrics.requests.labels(route, str(status)).inc()

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        token = self._registry.settings.token
        if token is not None and scope["path"] not in _OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {token}".encode()):
                raise RequestError(401, "This server wants the header Authorization: Bearer TOKEN.")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._registry.settings.body_bytes:
            raise self._too_large()

    def _count(self, receive: Receive) -> Receive:
        """The body as it comes, until it is too large: a length that was announced may be wrong."""
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._registry.settings.body_bytes:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> RequestError:
        self._registry.metrics.rejected.labels("size").inc()
        most = self._registry.settings.body_bytes / 2**20
        return RequestError(413, f"The request is larger than {most:g} MB.")
