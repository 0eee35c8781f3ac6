"""Files in, answers out; health, metrics, and the page."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from headstart.errors import HeadstartError, MissingPackageError
from headstart.server.bodies import Answer, describe_body, find_deadline, read_files
from headstart.server.outputs import describe
from headstart.server.registry import Registry
from headstart.server.settings import RequestError

_POLICY = (
    "default-src 'none'; img-src 'self' blob: data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; media-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_FORM = describe_body(
    "multipart/form-data",
    {
        "type": "object",
        "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
        "required": ["file"],
    },
)


def make_router(registry: Registry) -> APIRouter:
    """The routes outside of the protocols."""
    router = APIRouter(tags=["Headstart"])

    # Answered as it is: to check and copy it again would take a millisecond.
    @router.post(
        "/predict",
        summary="Answers for files of a form",
        openapi_extra=_FORM,
        response_model=dict[str, Any],
    )
    async def predict(
        request: Request,
        model: Annotated[list[str] | None, Query()] = None,
        similar: bool = False,
    ) -> Answer:
        # Each once: the same model twice would only say the same twice.
        names: list[str | None] = list(dict.fromkeys(model or ())) or [None]
        engines = [registry.get(name) for name in names]
        deadline = find_deadline(request, registry.settings)
        found = await read_files(request, registry.settings)
        photos = [content for _, content in found]
        jobs = [engine.answer(photos, deadline) for engine in engines]
        told = []
        for engine, answers in zip(engines, await _gather(jobs), strict=True):
            rows = [
                {"file": name, **describe(engine.predictor, said, similar)}
                for (name, _), said in zip(found, answers, strict=True)
            ]
            told.append({"model": engine.name, "results": rows})
        return Answer(told[0] if len(told) == 1 else {"models": told})

    _add_health(router, registry)
    _add_explain(router, registry)

    @router.get("/models", summary="What is served")
    async def models() -> dict[str, Any]:
        rows = [
            {
                "name": e.name,
                "task": e.predictor.task.name,
                "class_names": list(e.class_names),
                "digest": e.digest,
            }
            for e in registry.engines.values()
        ]
        return {"models": rows, "files": registry.settings.files}

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        text = (files("headstart.server") / "page" / "index.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY})

    return router


async def _gather(jobs: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """All results, or the first failure once all have ended."""
    found = await asyncio.gather(*jobs, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found


def _add_health(router: APIRouter, registry: Registry) -> None:
    @router.get("/healthz", summary="Whether it answers at all")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/readyz", summary="Whether it takes photos")
    async def ready() -> dict[str, bool]:
        if registry.is_draining:
            raise RequestError(503, "The server is being stopped.")
        return {"ready": True}

    @router.get("/metrics", summary="For Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(registry.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_explain(router: APIRouter, registry: Registry) -> None:
    @router.post("/explain", summary="What the answer for one file rests on", openapi_extra=_FORM)
    async def explain(request: Request, model: str | None = None) -> dict[str, Any]:
        engine = registry.get(model)
        deadline = find_deadline(request, registry.settings)
        (_, photo), *_ = await read_files(request, registry.settings)
        (said,) = await engine.answer([photo], deadline)
        if said.problem is not None:
            raise RequestError(400, f"The photo cannot be read: {said.problem}.")

        try:
            each = await engine.explain(await engine.decode(photo, deadline))
            heat = [[round(float(value), 4) for value in row] for row in each.heat]
            return {
                "label": each.label,
                "method": each.method,
                "heat": heat,
                "network_size": each.network_size,
            }
        except MissingPackageError as error:
            raise RequestError(501, str(error)) from None
        except HeadstartError as error:
            raise RequestError(400, str(error)) from None
