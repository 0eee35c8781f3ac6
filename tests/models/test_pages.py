"""The code of docs/backbones.md and docs/hub.md is run, with weights that need no internet."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import saved_models

DOCS = Path(__file__).parents[2] / "docs"

# What is written, and what is run: random weights, small photos, one epoch.
IN_PLACE = {
    "keras:vgg16": "keras:vgg16?weights=none&image_size=32",
    "image_size=(224, 224)": "image_size=(32, 32)",
    "epochs=10": "epochs=1",
}


def list_blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def folder(few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(few_digits, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(block: str) -> dict[str, Any]:
    for written, runs in IN_PLACE.items():
        block = block.replace(written, runs)
    names: dict[str, Any] = {}
    exec(block, names)
    return names


# Keras's own default, which it warns of wherever a dataset is fitted.
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
@pytest.mark.usefixtures("folder")
def test_the_page_of_backbones() -> None:
    classic, short = list_blocks("backbones.md")
    assert all(written in classic for written in IN_PLACE)
    names = run(classic)
    trained = [layer.name for layer in names["base"].layers if layer.trainable]
    assert trained == ["block5_conv1", "block5_conv2", "block5_conv3", "block5_pool"]
    assert names["model"].output_shape == (None, len(names["dataset"].class_names))
    assert run(short)["clf"].evaluation is not None


def test_the_page_of_saved_models(folder: Path) -> None:
    (folder / "downloads").mkdir()
    with tarfile.open(folder / "downloads" / "mobilenet_v2.tar.gz", "w:gz") as tar:
        tar.add(saved_models.reusable(), ".")
    (block,) = list_blocks("hub.md")
    assert run(block)["backbone"].trainable
    assert (folder / "tuned" / "saved_model.pb").is_file()
