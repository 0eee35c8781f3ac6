"""``kerashub:`` backbones from preset folders that the tests save; never the internet."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart import list_boundaries, load_backbone
from headstart.errors import BackboneError, MissingPackageError
from headstart.testing import check_backbone

pytest.importorskip("keras_hub")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCALE, OFFSET = (1 / 58.4, 1 / 57.1, 1 / 57.4), (-2.1, -2.0, -1.8)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ResNet with its image converter."""
    import keras_hub

    folder = tmp_path_factory.mktemp("presets") / "resnet"
    keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(None, None, 3),
    ).save_to_preset(folder)
    keras_hub.layers.ResNetImageConverter(
        image_size=(32, 32), scale=SCALE, offset=OFFSET
    ).save_to_preset(folder)
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer without an image converter."""
    import keras_hub

    folder = tmp_path_factory.mktemp("presets") / "vit"
    keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3),
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        dropout_rate=0.1,
    ).save_to_preset(folder)
    return folder


def make_photos() -> Any:
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)


def test_a_preset_folder_gives_kerashubs_features(resnet: Path) -> None:
    import keras_hub

    model = load_backbone(f"kerashub:{resnet}")
    assert model.input_shape == (None, 32, 32, 3)
    assert model.name == "resnet"
    whole = keras_hub.models.Backbone.from_preset(str(resnet))
    expected = whole(make_photos() * SCALE + OFFSET, training=False)
    found = model(make_photos(), training=False)
    assert np.allclose(found, expected, atol=1e-4)
    assert len(list_boundaries(model)) > 5
    assert load_backbone(f"kerashub:{resnet}?image_size=48").input_shape[1] == 48


def test_the_contract_holds(resnet: Path) -> None:
    check_backbone(load_backbone(f"kerashub:{resnet}"))


def test_tokens_become_a_vector_and_dropout_is_off(vit: Path) -> None:
    import keras_hub

    model = load_backbone(f"kerashub:{vit}?preprocessing=tf")
    assert model.output_shape == (None, 16)
    whole = keras_hub.models.Backbone.from_preset(str(vit))
    expected = whole(make_photos() / 127.5 - 1, training=False)[:, 0]
    assert np.allclose(model(make_photos(), training=False), expected, atol=1e-4)
    bigger = load_backbone(f"kerashub:{vit}", weights=None, image_size=48)
    assert bigger.input_shape[1] == 48


def test_random_weights_are_the_same_every_time(resnet: Path) -> None:
    first, second = (load_backbone(f"kerashub:{resnet}", weights=None) for _ in range(2))
    trained = load_backbone(f"kerashub:{resnet}")
    assert np.array_equal(first.weights[0], second.weights[0])
    assert not np.array_equal(first.weights[0], trained.weights[0])


def test_unknown_presets_are_answered_with_near_ones(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="Did you mean resnet_18_imagenet"):
        load_backbone("kerashub:resnet_18_imagenett")
    with pytest.raises(BackboneError, match="not a KerasHub preset: it has no config"):
        load_backbone(f"kerashub:{tmp_path}")


def test_text_backbones_and_foreign_classes_are_refused(resnet: Path, tmp_path: Path) -> None:
    import keras_hub

    keras_hub.models.BertBackbone(
        vocabulary_size=10, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4
    ).save_to_preset(tmp_path / "bert")
    with pytest.raises(BackboneError, match="is not an image backbone"):
        load_backbone(f"kerashub:{tmp_path / 'bert'}")
    config = json.loads((resnet / "config.json").read_text())
    config["config"]["block_type"] = {"module": "os", "class_name": "system", "config": {}}
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match=r"names the class os\.system"):
        load_backbone(f"kerashub:{tmp_path / 'evil'}")


def test_a_missing_kerashub_is_said_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "keras_hub" else find_spec(name)
    )
    with pytest.raises(MissingPackageError, match=r'pip install "headstart\[kerashub\]"'):
        load_backbone("kerashub:resnet_18_imagenet")


@pytest.mark.parametrize(
    ("name", "suggested"),
    [("resnet18", "resnet_18_imagenet"), ("resnet_18_imagnet", "resnet_18_imagenet")],
)
def test_a_preset_that_is_nearly_right_is_suggested(name: str, suggested: str) -> None:
    with pytest.raises(BackboneError, match=f"Did you mean .*{suggested}"):
        load_backbone(f"kerashub:{name}")
