"""The folders of a data set that mean a side of the split, and those that mean nothing."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# Folder names that mean a side of the split rather than a class, as they occur in the wild.
SIDES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}

# Folders that are never a class, besides those whose name starts with a dot (.git,
# .ipynb_checkpoints): left behind by unpacking on macOS and by network drives.
_HIDDEN = {"__macosx", "@eadir"}


def find_sides(root: Path, names: Iterable[str]) -> dict[str, str]:
    """The folders that are sides of the split; none when they are meant as classes."""
    folders = [name for name in names if name.lower() in SIDES and is_folder(root / name)]
    return _choose_sides(folders, lambda name: bool(_list_folders(root / name)))


def find_address_sides(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """Likewise, from all files below an address."""
    depths: dict[str, int] = {}
    for path in paths:
        first, *rest = path.relative_to(root).parts
        depths[first] = max(depths.get(first, 0), len(rest))
    folders = [name for name, depth in depths.items() if depth and name.lower() in SIDES]
    return _choose_sides(folders, lambda name: depths[name] > 1)


def _choose_sides(folders: Iterable[str], holds_folder: Callable[[str], bool]) -> dict[str, str]:
    sides = {name: SIDES[name.lower()] for name in folders}
    train = [name for name, side in sides.items() if side == "train"]
    # "test" alone may be a class: sides need something to train on. So may "train", among other
    # vehicles: it is a side when it holds class folders, or when another side is beside it.
    is_split = len(set(sides.values())) > 1 or any(map(holds_folder, train))
    return sides if train and is_split else {}


def normalise_name(name: str) -> str:
    """The class that a folder of this name stands for."""
    # Bytes that are not UTF-8 arrive as half characters that no file could be written with.
    name = os.fsencode(name).decode("utf-8", "backslashreplace")
    # macOS stores "é" as two characters, Linux as one: the same class either way. One string
    # for all photos of a class, not one for each.
    return sys.intern(unicodedata.normalize("NFC", name))


def find_unused(root: Path, sides: Iterable[str], labels: set[str]) -> Iterator[str]:
    """A sentence where folders that look like classes have no photos."""
    folders = set().union(*(_list_folders(base) for base in [root / s for s in sides] or [root]))
    empty = sorted({normalise_name(name) for name in folders} - labels)
    if empty:
        yield f"No photos in: {', '.join(empty)}; such a folder is no class."


def _list_folders(folder: Path) -> set[str]:
    """Those in it that may be classes; of what cannot be listed, none."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name)}
    except OSError:
        return set()


def is_folder(path: Path) -> bool:
    """Whether there is one; what must not be looked at is none."""
    # Path.is_dir raises for what must not be looked at.
    try:
        return path.is_dir()
    except OSError:
        return False


def is_hidden(name: str) -> bool:
    """Whether a folder of this name is never a class, and not searched."""
    return name.startswith(".") or name.lower() in _HIDDEN
