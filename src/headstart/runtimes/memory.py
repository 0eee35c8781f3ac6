"""What was measured on this machine, remembered beside the cache under all that it depends on."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from pathlib import Path
from typing import Any

from headstart.files import cache_folder, digest_bytes, make_folder, write_bytes


def remember(kind: str, source: dict[str, Any], record: dict[str, Any]) -> None:
    """Keep a record of a kind for this source and machine.

    Args:
        kind: Name of a folder.
        source: All that the record depends on, as plain data.
        record: Plain data.

    Raises:
        HeadstartError: The cache folder cannot be written.
    """
    path, whole = _find(kind, source)
    write_bytes(
        make_folder(path.parent) / path.name,
        json.dumps({**record, "source": whole}, indent=1).encode(),
    )


def recall(kind: str, source: dict[str, Any]) -> dict[str, Any] | None:
    """What was kept, or None; a damaged record counts as none."""
    path, whole = _find(kind, source)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(path.read_bytes())
        if record.pop("source") == whole and isinstance(record, dict):
            return record
    return None


def _find(kind: str, source: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    whole = {**source, "machine": describe_machine()}
    key = digest_bytes(json.dumps(whole, sort_keys=True).encode())
    return cache_folder() / kind / f"{key[:32]}.json", whole


def describe_machine() -> str:
    """System, processor and cores, as far as speeds depend on them."""
    return f"{platform.system()} {platform.machine()}, {_name_processor()}, {os.cpu_count()} cores"


def _name_processor() -> str:
    with contextlib.suppress(OSError):  # platform.processor() knows little on Linux
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown processor"
