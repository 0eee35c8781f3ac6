"""The photos of the benchmarks: where they are, their pixels and features.

The environment variable HEADSTART_TEST_PHOTOS names the folder; benchmarks/README.md says what it
holds. headstart is imported inside functions, see measure.py.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from headstart.data.scan import Sample
    from headstart.runtimes import Session

# The peers' scripts are modules, too; a package peers would be hidden by peers.py.
sys.path.append(str(Path(__file__).parent / "peers"))

BACKBONE = "efficientnet-lite0"
DATASETS = ("clothing", "ants-bees")

Decode = Callable[[Path], npt.NDArray[np.uint8]]


def data_root() -> Path:
    """The folder of the photos."""
    named = os.environ.get("HEADSTART_TEST_PHOTOS")
    if not named or not Path(named).is_dir():
        raise SystemExit("Set HEADSTART_TEST_PHOTOS to the folder of the benchmark photos.")
    return Path(named).resolve()


def dataset_folder(name: str, limit: int | None, scratch: Path) -> Path:
    """A folder with train/CLASS and test/CLASS: the whole, or a copy of a few photos per class.

    All files are read once, so that no timing starts with a cold disk.
    """
    folder = data_root() / name
    if limit is not None:
        smaller = scratch / name
        for group in (g for side in ("train", "test") for g in sorted((folder / side).iterdir())):
            target = smaller / group.relative_to(folder)
            target.mkdir(parents=True)
            for path in sorted(group.iterdir())[:limit]:
                shutil.copy(path, target)
        folder = smaller
    for path in list_photos(folder):
        path.read_bytes()
    return folder


def list_photos(folder: Path) -> list[Path]:
    """All files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Sides:
    """Samples of a dataset as `headstart train` divides them."""

    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    class_names: tuple[str, ...]

    def labels(self, samples: Iterable[Sample]) -> npt.NDArray[np.intp]:
        """Class numbers of samples."""
        return np.array([self.class_names.index(sample.label) for sample in samples], np.intp)


def load_sides(folder: Path, seed: int = 0) -> Sides:
    """Training and test samples of a dataset folder; copies across the sides are left out."""
    from headstart.data.scan import scan_folder
    from headstart.data.split import split_manifest

    manifest = scan_folder(folder)
    split = split_manifest(manifest, seed)
    return Sides(split.train, split.test, manifest.class_names)


def open_session() -> Session:
    """The product's session of the default backbone: one thread, batches padded."""
    from headstart.features.forward import padded
    from headstart.models.boundary import build_prefix_model
    from headstart.models.loaders import load_prefix
    from headstart.runtimes import get_runtime

    prefix = load_prefix(BACKBONE)
    return padded(get_runtime("onnxruntime").open(prefix, lambda: build_prefix_model(prefix)))


def decode_file(path: Path) -> npt.NDArray[np.uint8]:
    """The pixels of a photo by the product's decoder."""
    from headstart.data.decode import decode_photo

    return decode_photo(path.read_bytes(), 224)


def decode_all(paths: Iterable[Path], decode: Decode = decode_file) -> npt.NDArray[np.uint8]:
    """``(photo, 224, 224, 3)`` pixels of many photos, in memory."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(decode, paths)))


def run_pass(session: Session, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """``(photo, feature)`` of pixels in memory, in the product's batches: one thread per core."""
    from headstart.data.stream import BATCH_SIZE

    batches = (pixels[start : start + BATCH_SIZE] for start in range(0, len(pixels), BATCH_SIZE))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate(list(pool.map(session, batches)))


def compute_features(samples: Iterable[Any], decode: Decode = decode_file) -> Any:
    """``(sample, feature)`` float32 features of samples, straight from the runtime, no cache."""
    return run_pass(open_session(), decode_all((sample.path for sample in samples), decode))
