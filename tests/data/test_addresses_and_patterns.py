"""What is asked of addresses: patterns, what is gone, what is refused before it is asked, sizes."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.archive import AbstractArchiveFileSystem
from fsspec.implementations.chained import ChainedFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import get_filesystem_class, known_implementations
from fsspec.utils import infer_storage_options

from headstart.cli.inputs import list_inputs
from headstart.data import addresses
from headstart.data.addresses import AddressPath, find_pattern, locate
from headstart.data.decode import Limits
from headstart.data.scan import scan_folder, scan_paths
from headstart.data.table import scan_table
from headstart.errors import DatasetError


class Hosted(MemoryFileSystem):
    """A storage that is told its host by the address, and calls files without it, as SFTP does."""

    protocol = "hosted"
    store: dict[str, Any] = {}  # noqa: RUF012 - that of all instances, as in its base
    fail: Callable[[str], None] = staticmethod(lambda path: None)

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(**options)
        assert host == "server.example"
        assert options == {}, "a part of the name was taken for an option"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(infer_storage_options(path)["path"])

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        found = infer_storage_options(path)
        return {name: value for name, value in found.items() if name not in ("path", "protocol")}

    find = AbstractFileSystem.find  # by way of ls: that of its base knows no slash at the end

    def ls(self, path: str, detail: bool = True, **named: Any) -> Any:
        return super().ls(path.rstrip("/"), detail, **named)

    def info(self, path: str, **named: Any) -> Any:
        type(self).fail(path)
        return super().info(path, **named)


fsspec.register_implementation("hosted", Hosted, clobber=True)
HOST = "hosted://server.example"


@pytest.fixture(params=[HOST, "memory://", "file://"])
def storage(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a folder with photos, of each kind that calls its files otherwise."""
    monkeypatch.setattr(addresses, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(addresses, "_FAILURES", addresses._Failures())
    above = tmp_path.as_posix() if request.param == "file://" else "/new"
    there = f"{request.param}{above}".replace("memory:///", "memory://")
    options = {"host": "server.example"} if request.param == HOST else {}
    files = fsspec.filesystem(request.param.partition(":")[0], **options)
    for name in ("a.jpg", "b.jpg", "deep/c.jpg", "d[1].jpg"):
        files.makedirs(f"{above}/deep", exist_ok=True)
        files.pipe_file(f"{above}/{name}", name.encode())
    yield there
    Hosted.fail = staticmethod(lambda path: None)
    for kind in (Hosted, MemoryFileSystem):
        kind.store.clear()
        kind.pseudo_dirs[:] = [""]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jpg", ["a.jpg", "b.jpg", "d[1].jpg"]),
        ("?.jpg", ["a.jpg", "b.jpg"]),
        ("[b-c].jpg", ["b.jpg"]),
        ("d[1].jpg", ["d[1].jpg"]),
        ("de*/*", ["deep/c.jpg"]),
        ("**/c.jpg", ["deep/c.jpg"]),
        ("gone.jpg", ["gone.jpg"]),
    ],
)
def test_a_pattern_stands_for_addresses_at_the_same_place(storage, pattern, names):
    found = find_pattern(f"{storage}/{pattern}")
    assert [str(path) for path in found] == [f"{storage}/{name}" for name in names]
    assert [path.read_bytes() for path in found if path.name != "gone.jpg"] == [
        name.encode() for name in names if name != "gone.jpg"
    ]


@pytest.mark.parametrize("storage", [HOST, "memory://"], indirect=True)
def test_a_pattern_may_be_right_after_the_scheme_or_the_host(storage):
    found = find_pattern(f"{storage.removesuffix('new')}*/a.jpg")
    assert [str(path) for path in found] == [f"{storage}/a.jpg"]


def test_an_address_that_is_gone_is_a_problem_and_so_is_a_pattern_for_nothing(storage):
    gone, there = list_inputs([f"{storage}/gone.jpg", f"{storage}/a.jpg"])
    assert (str(gone.path), gone.reason) == (f"{storage}/gone.jpg", "does not exist")
    assert (str(there.path), there.reason) == (f"{storage}/a.jpg", None)
    for pattern in (f"{storage}/*.png", f"{storage}/none/*.jpg"):
        [none] = list_inputs([pattern])
        assert (str(none.path), none.reason) == (pattern, "the pattern matches no file")


@pytest.mark.parametrize("storage", [HOST], indirect=True)
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError("no answer"), "cannot be listed: no answer, 3 times"),
        (PermissionError("Forbidden"), "may not be read: Forbidden"),
    ],
)
def test_a_pattern_that_cannot_be_asked_for_is_an_error_with_its_reason(storage, error, said):
    def fail(path: str) -> None:
        raise error

    Hosted.fail = staticmethod(fail)
    with pytest.raises(DatasetError, match=said):
        find_pattern(f"{storage}/*.jpg")


def test_three_slashes_are_read_as_two_but_those_of_files_of_this_machine():
    """As docs/addresses.md says; a path does not know how many there were."""
    found = [str(locate(f"{kind}:///data/a.jpg")) for kind in ("hdfs", "file", "local")]
    assert found == ["hdfs://data/a.jpg", "file:///data/a.jpg", "local:///data/a.jpg"]


# ---- what is no place of files

REFUSED = [
    "reference://x::memory://refs.json",
    "simplecache::memory://bucket/a.jpg",
    "memory://bucket/a.jpg::memory://b.jpg",
    *(f"{kind}://bucket/a.jpg" for kind in ("reference", "data", "blockcache", "filecache")),
    *(f"{kind}://bucket/a.jpg" for kind in ("simplecache", "cached", "dir", "zip", "tar")),
    *(f"{kind}://bucket/a.jpg" for kind in ("libarchive", "generic", "dask", "asyncwrapper")),
]


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where fsspec is shown an address."""

    def fail(*arguments: Any, **named: Any) -> None:
        pytest.fail(f"fsspec was asked for {arguments}")

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    monkeypatch.setattr(addresses, "_PAUSE_SECONDS", 0.0)


# Those that begin as an address; others are names of files of this machine.
PLACED = [address for address in REFUSED if not address.startswith("simplecache::")]


@pytest.mark.parametrize("address", PLACED)
def test_an_address_that_is_no_place_of_files_is_refused_before_fsspec_sees_it(
    unasked, tmp_path, address
):
    said = "is not taken, only places of files, such as s3://.*; copy the photos to one"
    [problem] = scan_paths([AddressPath(address)]).problems
    assert re.search(f"^cannot be read: an address with [a-z:/]* {said}$", problem.reason)
    table = tmp_path / "photos.csv"
    (tmp_path / "b.jpg").write_bytes(b"bytes")
    table.write_text(f"path,label\n{address},cat\nb.jpg,dog\n")
    manifest = scan_table(table)
    assert [again.reason for again in manifest.problems] == [problem.reason]
    assert [sample.label for sample in manifest.samples] == ["dog"]
    for ask in (scan_folder, lambda name: find_pattern(f"{name}/*")):
        with pytest.raises(DatasetError, match=said):
            ask(address)
    with pytest.raises(DatasetError, match=said):
        scan_table(f"{address}.csv")
    assert not AddressPath(address).exists()


def test_each_kind_of_fsspec_that_is_within_other_files_is_refused():
    inner = (ChainedFileSystem, AbstractArchiveFileSystem)
    found = []
    for kind, row in known_implementations.items():
        if row["class"].startswith("fsspec."):
            with contextlib.suppress(ImportError):  # it needs a package
                found += [kind] if issubclass(get_filesystem_class(kind), inner) else []
    assert len(found) >= 8
    assert set(found) <= set(addresses._NO_PLACES)


def test_a_chain_that_begins_with_a_bare_kind_is_a_name_of_this_machine(unasked):
    [problem] = scan_paths([Path("simplecache::memory://bucket/a.jpg")]).problems
    assert problem.reason == "does not exist"


@pytest.mark.parametrize("storage", ["memory://"], indirect=True)
def test_a_name_with_two_colons_in_a_listed_folder_is_a_problem_of_that_photo(storage):
    fsspec.filesystem("memory").pipe_file("/new/deep/e::f.jpg", b"bytes")
    manifest = scan_folder(storage)
    assert [sample.path.name for sample in manifest.samples] == ["c.jpg"]
    [problem] = [each for each in manifest.problems if each.path.name == "e::f.jpg"]
    assert problem.reason.startswith("cannot be read: an address with :: is not taken")


# ---- sizes


@dataclass
class Web:
    """A server on this machine that says no sizes."""

    address: str
    sent: int = 0


PIECE = b"x" * 2**16
ENDLESS_BYTES = 64 * 2**20  # by which a client has hung up, or takes whatever comes


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(addresses, "_PAUSE_SECONDS", 0.0)
    found = Web("")

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200 if self.path != "/gone.jpg" else 404)
            if self.path == "/lies.jpg":
                self.send_header("Content-Length", "10")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200 if self.path != "/gone.jpg" else 404)
            self.end_headers()
            left = {"/small.jpg": 100_000, "/full.jpg": 2**20, "/gone.jpg": 0}
            left_bytes = left.get(self.path, ENDLESS_BYTES)
            try:
                while left_bytes:
                    piece = PIECE[:left_bytes]
                    self.wfile.write(piece)
                    found.sent += len(piece)
                    left_bytes -= len(piece)
            except OSError:  # the client has hung up
                self.close_connection = True

        def log_message(self, *arguments: Any) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["endless.jpg", "lies.jpg"])
def test_a_stream_without_end_is_left_and_is_a_problem(web, monkeypatch, name):
    monkeypatch.setattr(addresses, "LIMITS", Limits(file_bytes=2**20))
    found = scan_paths([AddressPath(f"{web.address}/{name}")])
    assert [problem.reason for problem in found.problems] == [
        "cannot be read: more than the limit of 1 MB"
    ]
    assert web.sent < ENDLESS_BYTES / 2  # what the system keeps between the two is on its way, too


def test_a_photo_of_a_size_that_nobody_says_is_read(web, monkeypatch):
    monkeypatch.setattr(addresses, "LIMITS", Limits(file_bytes=2**20))
    names = ["small.jpg", "full.jpg", "gone.jpg"]
    found = scan_paths([AddressPath(f"{web.address}/{name}") for name in names])
    assert [sample.path.stat().st_size for sample in found.samples] == [100_000, 2**20]
    assert [problem.reason for problem in found.problems] == ["does not exist"]
