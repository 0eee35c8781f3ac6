"""Bodies of requests: JSON, base64, tensors, multipart; whatever is wrong is one sentence."""

from __future__ import annotations

import base64
import binascii
import json
import time
from typing import Any

from fastapi.responses import JSONResponse
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from headstart.server.settings import RequestError, Settings


class Answer(JSONResponse):
    """JSON in ASCII: names of files and of classes may be what UTF-8 cannot hold."""

    def render(self, content: Any) -> bytes:
        """The bytes of plain data."""
        return json.dumps(content, allow_nan=False).encode()


def describe_body(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI says of a body that its route reads itself."""
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def describe_json(schema: dict[str, Any]) -> dict[str, Any]:
    """Likewise, of JSON."""
    return describe_body("application/json", schema)


async def read_json(request: Request) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RequestError: 400, it is none; 415, it is compressed.
    """
    return parse_json(await read_body(request))


async def read_body(request: Request) -> bytes:
    """All of it; its size is limited before.

    Raises:
        RequestError: 415, it is compressed.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestError(415, "Compressed requests are not read; send it as it is.")
    return await request.body()


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object of some bytes.

    Raises:
        RequestError: 400, it is none.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"The body is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise RequestError(400, "The body must be a JSON object.")
    return found


def decode_base64(text: Any) -> bytes:
    """The bytes of base64 text.

    Raises:
        RequestError: 400, it is none.
    """
    if not isinstance(text, str):
        raise RequestError(400, f"Expected base64 text, found {type(text).__name__}.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"A photo is not valid base64: {error}.") from None


async def read_files(request: Request, settings: Settings) -> list[tuple[str, bytes]]:
    """Names and bytes of the files of a form.

    Raises:
        RequestError: 400, there are none, or it is no form; 413, there are too many.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RequestError(400, "Send photos as multipart/form-data: curl -F file=@photo.jpg …")
    try:
        form = await request.form(max_files=settings.files, max_fields=settings.files)
    except MultiPartException as error:
        status = 413 if "Too many" in error.message else 400
        raise RequestError(status, f"The form cannot be read: {error.message}") from None
    except RequestError:
        raise
    except Exception as error:  # starlette wraps the parser's errors where an app is around it
        detail = getattr(error, "detail", error)
        status = 413 if "Too many" in str(detail) else 400
        raise RequestError(status, f"The form cannot be read: {detail}") from None
    files = [
        (value.filename or "photo", await value.read())
        for _, value in form.multi_items()
        if not isinstance(value, str)
    ]
    await form.close()
    if not files:
        raise RequestError(400, "The form has no file.")
    return files


def find_deadline(request: Request, settings: Settings) -> float:
    """When a request is no longer worth an answer, on the monotonic clock.

    The header ``X-Request-Timeout`` (seconds) may ask for less than the server's own limit.

    Raises:
        RequestError: 400, the header is no number.
    """
    seconds = settings.deadline_seconds
    asked = request.headers.get("x-request-timeout")
    if asked is not None:
        try:
            seconds = min(seconds, max(0.0, float(asked)))
        except ValueError:
            raise RequestError(400, f"X-Request-Timeout is {asked!r}, not seconds.") from None
    return time.monotonic() + seconds
