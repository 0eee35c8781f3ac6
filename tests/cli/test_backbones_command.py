"""`headstart backbones`: the catalogue, and where one backbone can be cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_commands import run  # noqa: F401 - a fixture

from headstart.models.backbones import BACKBONES
from headstart.models.keras_catalogue import ROWS
from headstart.models.keras_weights import weights_file


def test_the_list_says_what_is_ready(
    run: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    found = {row["name"]: row for row in run("backbones", "--json").json}
    assert list(found) == list(BACKBONES)
    vgg16 = found["keras:vgg16"]
    assert not vgg16["is_ready"]
    assert vgg16["weights_url"].endswith("vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5")
    assert vgg16["weights_file"] == str(weights_file(ROWS["vgg16"]))
    assert vgg16["preprocessing"] == "caffe"
    assert found["efficientnet-lite0"]["is_ready"]
    assert "downloads 59 MB" in run("backbones").stdout
    ready = run("backbones", "--ready").stdout
    assert "efficientnet-lite0" in ready
    assert "keras:" not in ready
    # Keras has no digest for MobileNet: being there is all that can be asked.
    path = weights_file(ROWS["mobilenet"])
    path.parent.mkdir(parents=True)
    path.touch()
    found = {row["name"]: row for row in run("backbones", "--json").json}
    assert found["keras:mobilenet"]["is_ready"]


def test_one_backbone_shows_its_boundaries(run: Any) -> None:  # noqa: F811
    done = run("backbones", "keras:vgg16", "--json").json
    assert (done["name"], done["image_size"]) == ("keras:vgg16", 224)
    pool = next(b for b in done["boundaries"] if b["name"] == "block4_pool")
    assert pool["shape"] == [14, 14, 512]
    assert pool["bytes_per_photo"] == 2 * 14 * 14 * 512
    assert pool["share_before"] == pytest.approx(0.91, abs=0.001)
    falls = {row["setting"]: row for row in done["unfreeze"]}
    assert falls["last_block"]["boundary"] == falls[4]["boundary"] == "block4_pool"
    assert falls[4]["layers"] == ["block5_conv1", "block5_conv2", "block5_conv3"]
    assert falls["last_2_blocks"]["boundary"] == "block3_pool"
    text = run("backbones", "keras:vgg16?image_size=64").stdout
    assert "block4_pool    4 × 4 × 512" in text
    assert "block5_conv1, block5_conv2, block5_conv3" in text


def test_an_unknown_name_is_a_sentence(run: Any) -> None:  # noqa: F811
    done = run("backbones", "keras:vgg61")
    assert done.status == 1
    assert "keras:vgg16?" in done.stderr.partition("Did you mean")[2]
