"""A converted graph is kept, found again, checked, and replaced when it is damaged."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from test_runtimes import small_model

from headstart.errors import HeadstartError
from headstart.models.boundary import Prefix, build_prefix_model
from headstart.models.loaders import load_prefix
from headstart.runtimes import RUNTIMES, graphs, litert_runtime
from headstart.runtimes.graphs import KEPT, get_converted, graphs_folder

pytestmark = pytest.mark.usefixtures("empty_cache")

# A prefix of which only the names matter.
PREFIX = Prefix("net", "00", "pooled", 8, (4,), None, lambda: None, None)  # type: ignore[arg-type,return-value]


class Converter:
    """Counts how often it is asked."""

    def __init__(self, data: bytes = b"graph") -> None:
        self.data, self.calls = data, 0

    def __call__(self) -> bytes:
        self.calls += 1
        return self.data


def get(converter: Converter, prefix: Prefix = PREFIX, suffix: str = ".tflite") -> bytes:
    return get_converted(prefix, suffix, ("numpy",), converter)


def list_graphs() -> list[Path]:
    return sorted(graphs_folder().iterdir(), key=lambda path: path.stat().st_mtime)


def test_a_graph_is_converted_once() -> None:
    converter = Converter()
    assert [get(converter), get(converter)] == [b"graph", b"graph"]
    assert converter.calls == 1
    assert [path.read_bytes() for path in list_graphs()] == [b"graph"]


def test_whatever_a_graph_depends_on_converts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    converter = Converter()
    get(converter)
    for field, value in {"weights_digest": "01", "boundary": "block5", "image_size": 9}.items():
        get(converter, replace(PREFIX, **{field: value}))
    get(converter, suffix=".onnx")
    monkeypatch.setattr(graphs, "get_version", lambda _package: "0.0.1")
    get(converter)
    assert converter.calls == 6
    get(converter, replace(PREFIX, backbone="renamed"))  # the name changes no number
    assert converter.calls == 6


@pytest.mark.parametrize("damage", [b"", b"grapf", b"graph and more"])
def test_a_damaged_graph_is_converted_again(damage: bytes) -> None:
    converter = Converter()
    get(converter)
    list_graphs()[0].write_bytes(damage)
    assert get(converter) == b"graph"
    assert converter.calls == 2
    assert [path.read_bytes() for path in list_graphs()] == [b"graph"]


def test_only_the_last_used_are_kept() -> None:
    converters = [Converter(b"graph %d" % number) for number in range(KEPT + 1)]
    prefixes = [replace(PREFIX, weights_digest=str(number)) for number in range(KEPT + 1)]
    for number in range(KEPT):
        get(converters[number], prefixes[number])
        os.utime(list_graphs()[-1], (number, number))
    get(converters[0], prefixes[0])  # used again: now the newest
    get(converters[KEPT], prefixes[KEPT])
    left = {path.read_bytes() for path in list_graphs()}
    assert left == {b"graph %d" % number for number in range(KEPT + 1) if number != 1}


def test_a_full_disk_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise HeadstartError("full")

    monkeypatch.setattr(graphs, "write_bytes", refuse)
    assert get(Converter()) == b"graph"


@pytest.mark.parametrize("name", ["litert", "onnxruntime"])
def test_a_second_session_builds_no_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = load_prefix(small_model())
    RUNTIMES[name].open(prefix, lambda: build_prefix_model(prefix))
    assert len(list_graphs()) == 1
    RUNTIMES[name].open(prefix, lambda: pytest.fail("it was built again"))


def test_a_foreign_graph_is_refused_with_a_sentence() -> None:
    import numpy as np

    from headstart.errors import BackboneError

    session = litert_runtime.open_graph(b"this is no graph")
    with pytest.raises(BackboneError, match=r"LiteRT refuses the graph: .{10}"):
        session(np.zeros((1, 8, 8, 3), np.uint8))
