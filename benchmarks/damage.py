"""How many corrupt JPEGs are noticed, how many sound ones are suspected, and what it costs.

Every photo of a dataset is damaged in some ways, none of which touches its headers: bytes of the
entropy-coded data changed at random (without making a marker), a part of it overwritten with
zeros, or its last part cut off and an end marker put there. Refused is what Pillow cannot read;
of what it accepts, flagged is what `decode_checked` reports. The row "as it is" has the false
alarms, and the processor time: of the check alone, and of decoding with the check and with Pillow.

    HEADSTART_TEST_PHOTOS=... python benchmarks/damage.py [--photos 100]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photos
from measure import make_parser, save_rows

from headstart.data import damage
from headstart.data.decode import decode_checked, decode_photo
from headstart.errors import UnreadablePhotoError

SIZE = 224
DATASETS = ("clothing", "ants-bees", "imagenet-sample")

Spoil = Callable[[bytes, np.random.Generator], bytes]


def keep(data: bytes, _rng: np.random.Generator) -> bytes:
    return data


def change_bytes(count: int) -> Spoil:
    def spoil(data: bytes, rng: np.random.Generator) -> bytes:
        changed = bytearray(data)
        for place in rng.integers(find_scan(data), len(data) - 2, count):
            changed[place] = (changed[place] + int(rng.integers(1, 254))) % 255
        return bytes(changed)

    return spoil


def blank(data: bytes, rng: np.random.Generator) -> bytes:
    """A lost disk block: 512 zeros."""
    start = int(rng.integers(find_scan(data), max(len(data) - 514, find_scan(data) + 1)))
    end = min(start + 512, len(data) - 2)
    return data[:start] + bytes(end - start) + data[end:]


def cut_and_close(data: bytes, rng: np.random.Generator) -> bytes:
    """The last part is missing, and an end marker hides it."""
    start = find_scan(data)
    return data[: int(rng.integers((start + len(data)) // 2, len(data) - 2))] + b"\xff\xd9"


def find_scan(data: bytes) -> int:
    """Where the entropy-coded data starts."""
    start = data.rindex(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


WAYS: dict[str, Spoil] = {
    "as it is": keep,
    "1 byte changed": change_bytes(1),
    "8 bytes changed": change_bytes(8),
    "40 bytes changed": change_bytes(40),
    "512 bytes zeroed": blank,
    "cut, with an end marker": cut_and_close,
}


def measure(dataset: str, way: str, paths: list[Path]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    damaged = [WAYS[way](path.read_bytes(), rng) for path in paths]
    refused = flagged = 0
    for data in damaged:
        try:
            flagged += decode_checked(data, SIZE)[1] is not None
        except UnreadablePhotoError:
            refused += 1
    accepted = len(damaged) - refused
    row: dict[str, Any] = {
        "dataset": dataset,
        "damage": way,
        "photos": len(damaged),
        "refused": refused,
        "accepted": accepted,
        "flagged": flagged,
        "share flagged": flagged / accepted if accepted else None,
        "check alone ms": None,
        "decode with check ms": None,
        "decode by Pillow ms": None,
    }
    if way == "as it is":
        row["check alone ms"] = time_photos(damage.find_damage, damaged)
        row["decode with check ms"] = time_photos(lambda data: decode_photo(data, SIZE), damaged)
        damage.can_check, can_check = (lambda: False), damage.can_check  # type: ignore[assignment]
        row["decode by Pillow ms"] = time_photos(lambda data: decode_photo(data, SIZE), damaged)
        damage.can_check = can_check
    return row


def time_photos(work: Callable[[bytes], Any], contents: list[bytes]) -> float:
    """Processor milliseconds per photo, the better of two rounds."""
    rounds = []
    for _ in range(2):
        start = time.process_time()
        for data in contents:
            work(data)
        rounds.append((time.process_time() - start) * 1e3 / len(contents))
    return min(rounds)


def main() -> None:
    parser = make_parser((__doc__ or "").splitlines()[0], has_repeats=False)
    parser.add_argument("--photos", type=int, help="of each dataset; all by default")
    options = parser.parse_args()
    rows = []
    for dataset in DATASETS:
        paths = [
            path
            for path in photos.list_photos(photos.data_root() / dataset)
            if path.read_bytes()[:2] == b"\xff\xd8"
        ]
        if options.photos:
            paths = paths[:: max(1, len(paths) // options.photos)][: options.photos]
        rows += [measure(dataset, way, paths) for way in WAYS]
    save_rows("damage", rows, options, is_full=not options.photos)


if __name__ == "__main__":
    main()
