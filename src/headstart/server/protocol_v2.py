"""The Open Inference Protocol V2 (KServe, Triton), with binary tensors and classification.

https://github.com/kserve/open-inference-protocol, and Triton's docs/protocol for the extensions.
"""

from __future__ import annotations

import json
import math
import re
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response

from headstart import __version__
from headstart.predictor import Prediction
from headstart.server.bodies import (
    decode_base64,
    describe_json,
    find_deadline,
    parse_json,
    read_body,
)
from headstart.server.engine import Engine
from headstart.server.lane import Photo
from headstart.server.outputs import COLUMNS, list_columns
from headstart.server.registry import VERSION, Registry
from headstart.server.settings import RequestError

_LENGTH = "inference-header-content-length"
_OUTPUTS = sorted({column.name for columns in COLUMNS.values() for column in columns})
_BODY = describe_json(
    {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {
                "type": "array",
                "minItems": 1,
                "maxItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                        "datatype": {"type": "string", "enum": ["BYTES", "UINT8"]},
                        "parameters": {"type": "object"},
                        "data": {"type": "array", "items": {"type": "string", "format": "byte"}},
                    },
                    "required": ["name", "shape", "datatype"],
                },
            },
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "enum": _OUTPUTS},
                        "parameters": {"type": "object"},
                    },
                    "required": ["name"],
                },
            },
        },
        "required": ["inputs"],
    }
)


def make_router(registry: Registry) -> APIRouter:
    """The routes below ``/v2``."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

    @router.get("", summary="The server")
    async def server() -> dict[str, Any]:
        extensions = ["binary_tensor_data", "classification"]
        return {"name": "headstart", "version": __version__, "extensions": extensions}

    @router.get("/health/live", summary="Whether it answers at all")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", summary="Whether it takes photos")
    async def ready() -> dict[str, bool]:
        _check_ready(registry)
        return {"ready": True}

    _add_models(router, registry)
    return router


def _add_models(router: APIRouter, registry: Registry) -> None:
    @router.get("/models/{name}", summary="Inputs and outputs")
    @router.get("/models/{name}/versions/{version}", summary="Inputs and outputs")
    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        return _describe(registry.get(name, version))

    @router.get("/models/{name}/ready", summary="Whether it takes photos")
    @router.get("/models/{name}/versions/{version}/ready", summary="Whether it takes photos")
    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        registry.get(name, version)
        _check_ready(registry)
        return {"name": name, "ready": True}

    @router.post("/models/{name}/infer", summary="Answers for photos", openapi_extra=_BODY)
    @router.post(
        "/models/{name}/versions/{version}/infer",
        summary="Answers for photos",
        openapi_extra=_BODY,
    )
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        engine = registry.get(name, version)
        head, tail = _cut(await read_body(request), request.headers.get(_LENGTH))
        photos = _read_photos(head, tail)
        answers = await engine.answer(photos, find_deadline(request, registry.settings))
        for each in answers:
            if each.problem is not None:
                raise RequestError(400, f"Photo {each.item} cannot be read: {each.problem}.")
        return _respond(engine, head, answers)


def _check_ready(registry: Registry) -> None:
    if registry.is_draining:
        raise RequestError(503, "The server is being stopped.")


def _describe(engine: Engine) -> dict[str, Any]:
    count = len(engine.class_names)
    return {
        "name": engine.name,
        "versions": [VERSION],
        "platform": "headstart_onnx",
        "inputs": [{"name": "image_bytes", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {
                "name": column.name,
                "datatype": column.kind,
                "shape": [-1, count] if column.is_wide else [-1],
            }
            for column in list_columns(engine.predictor)
        ],
    }


def _cut(body: bytes, length: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON, and the tensors behind it."""
    if length is None:
        return parse_json(body), b""
    if not re.fullmatch("[0-9]{1,12}", length) or int(length) > len(body):
        raise RequestError(400, f"Inference-Header-Content-Length is {length!r}, not its length.")
    return parse_json(body[: int(length)]), body[int(length) :]


def _read_photos(head: dict[str, Any], tail: bytes) -> list[Photo]:
    inputs = head.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RequestError(400, "Expected one input: image_bytes, or pixels of type UINT8.")
    given = inputs[0]
    kind, shape = given.get("datatype"), given.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise RequestError(400, f"The input's shape is {shape!r}, not a list of sizes.")
    parameters = given.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None and (type(size) is not int or size != len(tail)):
        raise RequestError(400, f"binary_data_size is {size!r}; {len(tail)} bytes came.")
    if kind == "BYTES":
        photos: list[Photo] = list(
            _split(tail) if size is not None else map(decode_base64, _flatten(given.get("data")))
        )
        count = math.prod(shape)
    elif kind == "UINT8":
        photos = _read_pixels(given.get("data"), tail if size is not None else None, shape)
        count = shape[0] if len(shape) == 4 else 1
    else:
        raise RequestError(400, f"The input's datatype is {kind!r}; accepted are BYTES and UINT8.")
    if len(photos) != count or not photos:
        raise RequestError(400, f"The shape {shape} does not fit {len(photos)} photos.")
    return photos


def _flatten(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise RequestError(400, "The input has no data, or they are no list.")
    flat: list[Any] = []
    for each in data:
        flat += each if isinstance(each, list) else [each]
    return flat


def _split(data: bytes) -> list[bytes]:
    """Elements of a BYTES tensor: four bytes of length, then that many bytes."""
    found, place = [], 0
    while place < len(data):
        if place + 4 > len(data):
            raise RequestError(400, "The binary tensor ends within a length.")
        (size,) = struct.unpack_from("<I", data, place)
        if place + 4 + size > len(data):
            raise RequestError(400, "The binary tensor ends within a photo.")
        found.append(data[place + 4 : place + 4 + size])
        place += 4 + size
    return found


def _read_pixels(data: Any, tail: bytes | None, shape: list[int]) -> list[Photo]:
    if len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape:
        raise RequestError(400, f"Pixels need the shape [photo, height, width, 3], not {shape}.")
    try:
        if tail is not None:
            flat = np.frombuffer(tail, np.uint8)
        else:
            flat = np.asarray(data).ravel()
            if flat.dtype.kind not in "iu" or flat.min() < 0 or flat.max() > 255:
                raise ValueError("pixels are whole numbers from 0 to 255")
        pixels = flat.astype(np.uint8).reshape(-1, *shape[-3:])
    except (ValueError, TypeError, OverflowError) as error:
        raise RequestError(400, f"The pixels do not fit their shape: {error}.") from None
    return list(pixels)


def _respond(engine: Engine, head: dict[str, Any], answers: list[Prediction[int]]) -> Response:
    parameters = head.get("parameters") or {}
    every = bool(isinstance(parameters, dict) and parameters.get("binary_data_output"))
    outputs, parts = [], []
    for name, settings in _read_wanted(engine, head):
        kind, values = _collect(engine, name, answers, settings.get("classification"))
        output: dict[str, Any] = {"name": name, "datatype": kind, "shape": list(values.shape)}
        if settings.get("binary_data", every):
            parts.append(_pack(kind, values))
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = values.ravel().tolist()
        outputs.append(output)
    found = {"model_name": engine.name, "model_version": VERSION, "outputs": outputs}
    if isinstance(head.get("id"), str):
        found["id"] = head["id"]
    text = json.dumps(found).encode()
    if not parts:
        return Response(text, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return Response(b"".join([text, *parts]), 200, headers, "application/octet-stream")


def _read_wanted(engine: Engine, head: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Names and parameters of the outputs that are asked for; all by default."""
    known = [column.name for column in list_columns(engine.predictor)]
    wanted = head.get("outputs") or [{"name": name} for name in known]
    if not isinstance(wanted, list):
        raise RequestError(400, f"The outputs are {wanted!r}, not a list.")
    found = []
    for asked in wanted:
        name = asked.get("name") if isinstance(asked, dict) else None
        if name not in known:
            raise RequestError(400, f"There is no output {name!r}; there are {', '.join(known)}.")
        settings = asked.get("parameters") or {}
        if not isinstance(settings, dict):
            raise RequestError(400, f"An output's parameters are {settings!r}, not an object.")
        found.append((str(name), settings))
    return found


def _collect(
    engine: Engine, name: str, answers: list[Prediction[int]], top: Any
) -> tuple[str, npt.NDArray[Any]]:
    """Type and values of an output."""
    if top is not None:
        if type(top) is not int or top < 1 or name != "probabilities":
            raise RequestError(400, "classification is a number from 1 on, of probabilities.")
        return "BYTES", np.array([_rank(engine, each, top) for each in answers], object)
    (column,) = [each for each in list_columns(engine.predictor) if each.name == name]
    return column.kind, column.collect(answers, engine.class_names)


def _rank(engine: Engine, said: Prediction[int], top: int) -> list[str]:
    order = np.argsort(-said.probabilities, kind="stable")[:top]
    return [f"{said.probabilities[n]:.6f}:{n}:{engine.class_names[n]}" for n in order]


def _pack(kind: str, values: npt.NDArray[Any]) -> bytes:
    if kind != "BYTES":
        return values.tobytes()
    texts = [str(value).encode("utf-8", "replace") for value in values.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)
