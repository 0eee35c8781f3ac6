"""TensorFlow Serving's REST API (https://www.tensorflow.org/tfx/serving/api_rest).

The answers are those of the exported SavedModel, so that clients of either need no change.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from headstart.predictor import Prediction
from headstart.server.bodies import decode_base64, describe_json, find_deadline, read_json
from headstart.server.engine import Engine
from headstart.server.outputs import list_columns
from headstart.server.registry import VERSION, Registry
from headstart.server.settings import RequestError
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION, Task

_TYPES = {"FP32": "DT_FLOAT", "BYTES": "DT_STRING", "BOOL": "DT_BOOL"}

_PHOTO = {
    "type": "object",
    "properties": {"b64": {"type": "string", "format": "byte"}},
    "required": ["b64"],
}
_PHOTOS = {"type": "array", "items": _PHOTO, "minItems": 1}
_BODY = describe_json(
    {
        "type": "object",
        "properties": {
            "signature_name": {"type": "string", "enum": ["serving_default"]},
            "instances": _PHOTOS,
            "inputs": {"anyOf": [_PHOTO, _PHOTOS]},
            "examples": _PHOTOS,
        },
    }
)


def make_router(registry: Registry) -> APIRouter:
    """The routes below ``/v1``."""
    router = APIRouter(prefix="/v1/models", tags=["TensorFlow Serving"])

    @router.get("/{name}", summary="Status")
    @router.get("/{name}/versions/{version}", summary="Status")
    async def status(name: str, version: str | None = None) -> dict[str, Any]:
        registry.get(name, version)
        state = {"error_code": "OK", "error_message": ""}
        known = {"version": VERSION, "state": "AVAILABLE", "status": state}
        return {"model_version_status": [known]}

    @router.get("/{name}/metadata", summary="Signature")
    @router.get("/{name}/versions/{version}/metadata", summary="Signature")
    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        engine = registry.get(name, version)
        spec = {"name": name, "signature_name": "", "version": VERSION}
        return {
            "model_spec": spec,
            "metadata": {
                "signature_def": {"signature_def": _describe_signature(engine)},
                "class_names": list(engine.class_names),
            },
        }

    # Starlette's parameters take a colon, so that the verb is cut off here.
    @router.post(
        "/{target}", summary="NAME:predict, NAME:classify, NAME:regress", openapi_extra=_BODY
    )
    async def call(request: Request, target: str) -> dict[str, Any]:
        name, verb = _cut_verb(request, target)
        return await _answer(registry, registry.get(name), verb, request)

    @router.post(
        "/{name}/versions/{target}",
        summary="VERSION:predict, VERSION:classify, VERSION:regress",
        openapi_extra=_BODY,
    )
    async def call_version(request: Request, name: str, target: str) -> dict[str, Any]:
        version, verb = _cut_verb(request, target)
        return await _answer(registry, registry.get(name, version), verb, request)

    return router


def _cut_verb(request: Request, target: str) -> tuple[str, str]:
    first, colon, verb = target.rpartition(":")
    if not colon or verb not in ("predict", "classify", "regress"):
        raise RequestError(404, f"There is nothing at {request.url.path}; see /docs.")
    return first, verb


async def _answer(
    registry: Registry, engine: Engine, verb: str, request: Request
) -> dict[str, Any]:
    body = await read_json(request)
    deadline = find_deadline(request, registry.settings)
    if verb == "classify":
        return await _classify(engine, body, deadline)
    if verb == "regress":
        return await _regress(engine, body, deadline)
    return await _predict(engine, body, deadline)


async def _predict(engine: Engine, body: dict[str, Any], deadline: float) -> dict[str, Any]:
    if ("instances" in body) == ("inputs" in body):
        raise RequestError(400, 'The body needs either "instances" or "inputs".')
    signature = body.get("signature_name") or "serving_default"
    if signature != "serving_default":
        raise RequestError(400, f"There is no signature {signature!r}; there is serving_default.")
    is_column = "inputs" in body
    given = body["inputs"] if is_column else body["instances"]
    if is_column and isinstance(given, dict) and "b64" not in given:
        given = _only_value(given)
    if is_column and isinstance(given, dict):
        given = [given]
    photos = _read_photos(given)
    answers = _check_all(await engine.answer(photos, deadline))
    rows = [_make_row(engine, each) for each in answers]
    if not is_column:
        return {"predictions": rows}
    return {"outputs": {key: [row[key] for row in rows] for key in rows[0]}}


async def _regress(engine: Engine, body: dict[str, Any], deadline: float) -> dict[str, Any]:
    _require(engine, "regress", REGRESSION)
    answers = _check_all(await engine.answer(_read_photos(body.get("examples")), deadline))
    return {"results": [each.value for each in answers]}


def _require(engine: Engine, verb: str, *tasks: Task) -> None:
    task = engine.predictor.task
    if task not in tasks:
        raise RequestError(400, f"{engine.name} has the task {task.name}, which is no {verb}.")


async def _classify(engine: Engine, body: dict[str, Any], deadline: float) -> dict[str, Any]:
    _require(engine, "classify", CLASSIFICATION, MULTILABEL)
    answers = _check_all(await engine.answer(_read_photos(body.get("examples")), deadline))
    return {
        "results": [
            [
                [name, float(p)]
                for name, p in zip(engine.class_names, row.probabilities, strict=True)
            ]
            for row in answers
        ]
    }


def _read_photos(given: Any) -> list[bytes]:
    if not isinstance(given, list) or not given:
        raise RequestError(400, 'Expected a list of photos: [{"b64": "…"}, …].')
    return [_read_photo(each) for each in given]


def _read_photo(given: Any) -> bytes:
    if isinstance(given, dict) and "b64" not in given:
        given = _only_value(given)
    if not isinstance(given, dict) or "b64" not in given:
        raise RequestError(400, 'A photo is given as {"b64": "…"}: the file in base64.')
    return decode_base64(given["b64"])


def _only_value(given: dict[str, Any]) -> Any:
    if len(given) != 1:
        raise RequestError(400, f"Expected one input, image_bytes; found {sorted(given)}.")
    return next(iter(given.values()))


def _check_all(answers: list[Prediction[int]]) -> list[Prediction[int]]:
    """This protocol has no place for a photo that cannot be read among others that can.

    Raises:
        RequestError: 400, with its number and reason.
    """
    for each in answers:
        if each.problem is not None:
            raise RequestError(400, f"Photo {each.item} cannot be read: {each.problem}.")
    return answers


def _make_row(engine: Engine, said: Prediction[int]) -> dict[str, Any]:
    """As the exported SavedModel's outputs."""
    columns = list_columns(engine.predictor)
    return {c.name: c.collect([said], engine.class_names).tolist()[0] for c in columns}


def _describe_signature(engine: Engine) -> dict[str, Any]:
    def tensor(kind: str, *sides: int) -> dict[str, Any]:
        dims = [{"size": str(side), "name": ""} for side in sides]
        return {"dtype": kind, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": ""}

    count = len(engine.class_names)
    outputs = {
        column.name: tensor(_TYPES[column.kind], -1, *([count] if column.is_wide else ()))
        for column in list_columns(engine.predictor)
    }
    return {
        "serving_default": {
            "inputs": {"image_bytes": tensor("DT_STRING", -1)},
            "outputs": outputs,
            "method_name": "tensorflow/serving/predict",
        }
    }
