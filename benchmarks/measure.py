"""What all benchmarks share: timed child processes, versions, machine, tables, CSV files.

Only the standard library, NumPy and rich are imported here: the peak memory of a child is at least
that of the process that started it (Linux carries the figure over `exec`), so the process that
starts the children must stay small.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Self

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PACKAGES = ("headstart", "tensorflow", "keras", "onnxruntime", "pillow", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Child:
    """A process that has ended well.

    Attributes:
        seconds: Wall time from before its start until it was gone.
        peak_mb: Largest resident memory of the process and all its children together, sampled ten
            times a second; pages that they share count for each. Where there is no /proc: of the
            largest single process.
        stdout: What it printed.
    """

    seconds: float
    peak_mb: float
    stdout: str

    @property
    def json(self) -> Any:
        """Its last line, which all our children print as JSON."""
        return json.loads(self.stdout.strip().splitlines()[-1])


def run_child(*command: str | Path, cache: Path) -> Child:
    """Run a command with its own cache folder and wait for it.

    Raises:
        RuntimeError: It failed; with the end of what it said.
    """
    environment = {**os.environ, "HEADSTART_CACHE": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
    # What is installed is compiled; where that is forbidden, each child would compile it again.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=out, stderr=err, env=environment
        )
        with _MemoryWatch(process.pid) as memory:
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
            seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said, complaint = (_read(stream) for stream in (out, err))
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}:\n{complaint[-3000:]}")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return Child(seconds, max(usage.ru_maxrss / unit, memory.peak_mb), said)


def _read(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")


class _MemoryWatch:
    """The largest sum of the resident memory of a process and its descendants, while entered."""

    def __init__(self, pid: int) -> None:
        self.peak_mb = 0.0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self.peak_mb = max(self.peak_mb, _resident_pages(self._pid) * PAGE_BYTES / 2**20)


def _resident_pages(pid: int) -> int:
    process = Path(f"/proc/{pid}")
    try:
        pages = int((process / "statm").read_text().split()[1])
        lists = [path.read_text() for path in process.glob("task/*/children")]
    except (OSError, IndexError):  # it has just ended, or there is no /proc
        return 0
    return pages + sum(_resident_pages(int(child)) for text in lists for child in text.split())


def run_python(*arguments: str | Path, cache: Path) -> Child:
    """`run_child` with a fresh interpreter of this environment."""
    return run_child(sys.executable, *arguments, cache=cache)


def run_headstart(*arguments: str | Path, cache: Path) -> Child:
    """`run_child` with the installed `headstart` command."""
    return run_child(Path(sys.executable).parent / "headstart", *arguments, cache=cache)


def make_parser(description: str, *, has_repeats: bool = True) -> argparse.ArgumentParser:
    """The options that every benchmark has; those that time nothing have no repeats."""
    parser = argparse.ArgumentParser(description=description)
    if has_repeats:
        parser.add_argument("--repeats", type=int, default=3, help="of what is cheap; medians")
    parser.add_argument("--limit", type=_limit, help="photos per class and side: a smoke run")
    parser.add_argument("--output", type=Path, help="the CSV; by default in results/, if full")
    return parser


def _limit(text: str) -> int:
    if int(text) < 5:
        raise argparse.ArgumentTypeError("five folds need five photos of each class")
    return int(text)


def save_rows(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    options: argparse.Namespace,
    *,
    is_full: bool = True,
) -> None:
    """Print a table, and write the CSV with date, machine and versions in every row.

    A run on a part of the photos or rows is written only where ``--output`` says, so that results/
    holds nothing but full runs.
    """
    print_table(rows)
    path = options.output
    if path is None and is_full and options.limit is None:
        path = RESULTS / f"{name}.csv"
    if path is None:
        print("a partial run: not written (--output FILE writes it)")
        return
    context = describe_context()
    write_csv(path, [{**context, **row, "limit": options.limit or ""} for row in rows])
    print(f"wrote {path}")


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The rows that a run that was stopped has measured."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def write_journal(path: Path, *rows: Mapping[str, Any]) -> None:
    """Add rows to those that are measured."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def describe_context() -> dict[str, str]:
    """Date, machine and versions."""
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    found = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    name = found.get("model name", "").strip() or platform.processor() or platform.machine()
    # It halves the time of a network, and two processors of one name may differ in it.
    return f"{name} with AVX-512" if " avx512f " in found.get("flags", "") else name


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all rows or nothing: a temporary sibling is renamed onto the path."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: show(value) for key, value in row.items()} for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text.getvalue(), encoding="utf-8")
    temporary.replace(path)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows on stdout; a wide table stays whole when stdout is not a terminal."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in rows[0]:
        is_number = any(isinstance(row[column], float) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(show(value) for value in row.values()))
    console.print(table)


def show(value: Any) -> str:
    """A cell: four significant digits, yes or no, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)
