"""Weights of keras.applications from a server on 127.0.0.1: right, wrong, missing, unreachable."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_files import write_legacy

from headstart import load_backbone
from headstart.errors import BackboneError
from headstart.models import backbones, keras_applications, loaders
from headstart.models.backbones import get_backbone
from headstart.models.keras_catalogue import ROWS
from headstart.models.keras_weights import is_in_keras_cache, weights_file
from headstart.models.loaders import load_prefix


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which it is served, with weights of MobileNetV3Small in it."""
    import keras

    folder = tmp_path_factory.mktemp("server")
    plain = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    plain.set_weights([np.full(w.shape, 0.25) for w in plain.weights])
    write_legacy(plain, folder / ROWS["mobilenet_v3_small"].file)
    handler = partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def row(served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Changes the row of MobileNetV3Small; by default it is right and comes from our server."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    folder, url = served
    old = ROWS["mobilenet_v3_small"]
    digest = hashlib.sha256((folder / old.file).read_bytes()).hexdigest()

    def change(**changes: Any) -> Any:
        family = replace(old.family, url=changes.pop("url", url))
        new = replace(old, **{"digest": digest, "family": family, **changes})
        spec = replace(get_backbone("keras:mobilenet_v3_small"), row=new, weights_digest=new.digest)
        monkeypatch.setitem(keras_applications.ROWS, "mobilenet_v3_small", new)
        monkeypatch.setitem(backbones.BACKBONES, "keras:mobilenet_v3_small", spec)
        return new

    yield change
    loaders._load_once.cache_clear()


NAME = "keras:mobilenet_v3_small"


def test_weights_are_downloaded_once_and_ready_afterwards(row: Any, capsys: Any) -> None:
    changed = row()
    assert not get_backbone(NAME).is_ready
    model = load_backbone(NAME, image_size=32)
    assert all((np.asarray(w) == 0.25).all() for w in model.weights)
    assert get_backbone(NAME).is_ready
    assert capsys.readouterr().out == ""  # what Keras says of the download is no result
    row(url="http://127.0.0.1:9/")  # nobody listens there
    again = load_backbone(NAME, image_size=32)
    assert np.array_equal(again.weights[0], model.weights[0])
    prefix = load_prefix(NAME)
    assert prefix.weights_digest == changed.digest
    assert prefix.shape == (576,)


def test_a_damaged_file_is_fetched_again(row: Any) -> None:
    changed = row()
    path = weights_file(changed)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut off")
    assert not is_in_keras_cache(changed)
    assert not get_backbone(NAME).is_ready
    load_backbone(NAME, image_size=32)
    assert is_in_keras_cache(changed)


def test_a_file_with_another_digest_is_refused_and_removed(row: Any) -> None:
    changed = row(digest="0" * 64)
    with pytest.raises(BackboneError, match="could not be downloaded") as caught:
        load_backbone(NAME, image_size=32)
    assert "hash does not match" in str(caught.value)
    assert not weights_file(changed).exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"remote": "missing.h5"}, "404"), ({"url": "http://127.0.0.1:9/"}, "refused")],
)
def test_no_download_says_what_to_do(row: Any, changes: dict[str, str], reason: str) -> None:
    changed = row(**changes)
    with pytest.raises(BackboneError) as caught:
        load_prefix(NAME)  # before photos are read
    text = str(caught.value)
    assert reason in text
    assert str(weights_file(changed)) in text
    assert changed.digest in text
    assert "weights=FILE" in text
    assert not weights_file(changed).exists()


def test_weights_put_there_by_hand_are_found(row: Any, served: tuple[Path, str]) -> None:
    changed = row(url="http://127.0.0.1:9/")
    path = weights_file(changed)
    path.parent.mkdir(parents=True)
    path.write_bytes((served[0] / changed.file).read_bytes())
    assert load_backbone(NAME, image_size=32).weights


def test_a_folder_that_cannot_be_written_is_named(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row()
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(BackboneError, match="KERAS_HOME"):
        load_backbone(NAME, image_size=32)


def test_without_a_published_digest_the_file_is_taken_as_it_is(row: Any) -> None:
    changed = row(digest="")
    load_backbone(NAME, image_size=32)
    path = weights_file(changed)
    assert load_prefix(NAME).weights_digest == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BackboneError, match="is not a readable HDF5 file"):
        load_backbone(NAME, image_size=32)
