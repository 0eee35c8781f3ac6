"""Downloads from a server on this machine that cuts, lies, and changes its mind."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from headstart.errors import BackboneError, HeadstartError, MissingPackageError
from headstart.models.downloads import archives, fetch_saved_model, transfer
from headstart.models.downloads.fetch import find_download

GRAPH = os.urandom(300_000)


def pack(members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


GOOD = pack({"./saved_model.pb": GRAPH, "./variables/variables.index": b"index"})


@dataclass
class Server:
    """What is served, and what was asked for.

    Attributes:
        files: Content by path.
        tags: ETag by path; a digest by default, empty for none.
        cuts: Bytes after which each of the next answers ends.
        statuses: Status codes of the next answers.
        redirects: Where a path sends on to.
        ranges: Whether ranges are served.
        lengths: Whether it says how long its answers are.
        asked: Path and headers of every request.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    lengths: bool = True
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def put(self, name: str, content: bytes) -> str:
        self.files[f"/{name}"] = content
        return f"{self.url}/{name}"

    def list_ranges(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.asked]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        state: Server = self.server.state
        path = self.path.partition("?")[0]
        state.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.close_connection = True
        status = state.statuses.pop(0) if state.statuses else 200
        if path in state.redirects:
            self.send_response(302)
            self.send_header("Location", state.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = state.files.get(path)
        if content is None or status != 200:
            self.send_error(404 if content is None else status)
            return
        tag = state.tags.get(path, f'"{hashlib.sha256(content).hexdigest()[:8]}"')
        wanted = self.headers.get("Range")
        start = 0
        if wanted and state.ranges and self.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if state.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        end = start + state.cuts.pop(0) if state.cuts else len(content)
        self.wfile.write(content[start:end])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> Iterator[Server]:
    monkeypatch.setattr(transfer, "_PAUSE_SECONDS", 0.0)
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.state = Server(f"http://127.0.0.1:{web.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    yield web.state  # type: ignore[attr-defined]
    web.shutdown()
    web.server_close()
    thread.join()


def list_cache(cache: Path) -> set[str]:
    """What a fetch leaves behind: kinds of files, without the locks."""
    found = (cache / "saved_models").iterdir() if (cache / "saved_models").exists() else ()
    return {path.suffix or "entry" for path in found} - {".lock"}


def check_good(folder: Path) -> None:
    assert (folder / "saved_model.pb").read_bytes() == GRAPH
    assert (folder / "variables" / "variables.index").read_bytes() == b"index"


# ---- the network


def test_a_good_file_is_fetched_once(server: Server, empty_cache: Path) -> None:
    url = server.put("net.tar.gz", GOOD)
    seen: list[tuple[int, int | None]] = []
    check_good(fetch_saved_model(url, progress=lambda *step: seen.append(step)))
    assert seen[0] == (0, len(GOOD))
    assert seen[-1] == (len(GOOD), len(GOOD))
    assert list_cache(empty_cache) == {"entry"}
    check_good(fetch_saved_model(url, hashlib.sha256(GOOD).hexdigest()))
    assert len(server.asked) == 1
    server.files.clear()
    check_good(fetch_saved_model(url))


def test_a_wrong_digest_is_refused(server: Server, empty_cache: Path) -> None:
    url, digest = server.put("net.tar.gz", GOOD), hashlib.sha256(GOOD).hexdigest()
    with pytest.raises(BackboneError, match=f"has the sha256 {digest}, not 0000"):
        fetch_saved_model(url, "0" * 64)
    assert list_cache(empty_cache) == set()
    check_good(fetch_saved_model(url, digest.upper()))
    with pytest.raises(BackboneError, match="not 0000"):  # of what is in the cache, too
        fetch_saved_model(url, "0" * 64)
    check_good(fetch_saved_model(url))


@pytest.mark.parametrize("cuts", [[100_000], [1, 50_000, 70_000, 9, 100_000], [0]])
def test_a_cut_connection_is_resumed(server: Server, cuts: list[int]) -> None:
    url = server.put("net.tar.gz", GOOD)
    server.cuts = list(cuts)
    check_good(fetch_saved_model(url))
    starts = list(itertools.accumulate(cut - cut % transfer._PIECE_BYTES for cut in cuts))
    expected = [None, *(f"bytes={start}-" if start else None for start in starts)]
    assert server.list_ranges() == expected
    tags = {headers.get("if-range") for _, headers in server.asked[1:]} - {None}
    assert tags <= {f'"{hashlib.sha256(GOOD).hexdigest()[:8]}"'}


def test_a_later_run_goes_on_where_one_gave_up(server: Server, empty_cache: Path) -> None:
    url = server.put("net.tar.gz", GOOD)
    server.cuts = [100_000, 0, 0, 0, 0, 0]
    with pytest.raises(BackboneError, match=r"cut 4 times .* after 98,304 of 3\d\d,\d\d\d bytes"):
        fetch_saved_model(url)
    assert list_cache(empty_cache) == {".part", ".json"}
    server.cuts.clear()
    server.asked.clear()
    check_good(fetch_saved_model(url))
    assert server.list_ranges() == ["bytes=98304-"]
    assert list_cache(empty_cache) == {"entry"}


def test_a_whole_file_that_was_not_unpacked_is_not_fetched_again(
    server: Server, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.put("net.tar.gz", GOOD)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("headstart.models.downloads.fetch.unpack_archive", fail)
        with pytest.raises(HeadstartError, match=r"No space left on device .* MB are free"):
            fetch_saved_model(url)
    assert list_cache(empty_cache) == {".part", ".json"}
    check_good(fetch_saved_model(url))
    assert server.list_ranges() == [None, f"bytes={len(GOOD)}-"]


@pytest.mark.parametrize("why", ["changed", "no ranges", "weak tag", "no tag"])
def test_pieces_of_different_files_are_never_joined(server: Server, why: str) -> None:
    other = pack({"saved_model.pb": os.urandom(300_000)})
    url = server.put("net.tar.gz", GOOD if why == "no ranges" else other)
    server.tags = (
        {"/net.tar.gz": {"weak tag": 'W/"a"', "no tag": ""}.get(why, "")} if ("tag" in why) else {}
    )
    server.ranges = why != "no ranges"
    server.cuts = [50_000, 0, 0, 0, 0, 0]
    with pytest.raises(BackboneError, match=r"cut 4 times|No answer"):
        fetch_saved_model(url)
    server.cuts.clear()
    server.asked.clear()
    server.put("net.tar.gz", GOOD)
    check_good(fetch_saved_model(url))
    assert len(server.asked) == 1


def test_a_file_that_was_truncated_on_the_server_starts_anew(server: Server) -> None:
    url = server.put("net.tar.gz", GOOD)
    server.tags = {"/net.tar.gz": '"same"'}
    server.files["/net.tar.gz"] = GOOD + b"\0" * 100_000
    server.cuts = [len(GOOD) + 50_000, 0, 0, 0]
    with pytest.raises(BackboneError, match="cut 4 times"):
        fetch_saved_model(url)
    server.cuts.clear()
    server.put("net.tar.gz", GOOD)
    check_good(fetch_saved_model(url))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    url = server.put("net.tar.gz", GOOD)
    server.statuses = [status, status]
    check_good(fetch_saved_model(url))
    assert len(server.asked) == 3
    server.statuses = [status] * 9
    with pytest.raises(BackboneError, match=rf"No answer .*the server answered {status}"):
        fetch_saved_model(server.put("other.tar.gz", GOOD))


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(404, "answered 404 .* Check the address"), (403, "403 .* wants a sign-in or a consent")],
)
def test_what_is_not_given_is_told_at_once(server: Server, status: int, sentence: str) -> None:
    url = server.put("net.tar.gz", GOOD)
    server.statuses = [status]
    with pytest.raises(BackboneError, match=sentence):
        fetch_saved_model(url)
    with pytest.raises(BackboneError, match="the server answered 404"):
        fetch_saved_model(f"{server.url}/nothing.tar.gz")
    assert len(server.asked) == 2


def test_without_a_connection_it_says_what_to_do(server: Server, empty_cache: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BackboneError) as caught:
        fetch_saved_model(f"http://127.0.0.1:{port}/net.tar.gz")
    text = str(caught.value)
    assert text.startswith(f"No answer from 127.0.0.1:{port} (")
    assert "[Errno" in text
    assert "on another one, and give the file: hub:FILE.tar.gz" in text
    assert list_cache(empty_cache) == set()


def test_http_is_for_this_machine_only(server: Server) -> None:
    server.put("net.tar.gz", GOOD)
    for url in (
        "http://example.org/net.tar.gz",
        "http://127.0.0.1@example.org/net.tar.gz",
        "ftp://example.org/net.tar.gz",
        "gs://bucket/net.tar.gz",
    ):
        with pytest.raises(BackboneError, match=r"is not fetched: .* Use https"):
            fetch_saved_model(url)
    server.redirects = {"/a": "http://example.org/net.tar.gz", "/b": "/net.tar.gz"}
    with pytest.raises(BackboneError, match=r"http://example.org/net.tar.gz is not fetched"):
        fetch_saved_model(f"{server.url}/a")
    check_good(fetch_saved_model(f"{server.url}/b"))


@pytest.mark.parametrize("lengths", [True, False])
def test_the_size_is_limited(
    server: Server, empty_cache: Path, lengths: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen = server.put("net.tar.gz", GOOD), []
    server.lengths = lengths
    monkeypatch.setattr(transfer, "MOST_ARCHIVE_BYTES", 100_000)
    with pytest.raises(BackboneError, match="is larger than 0 GiB; refused"):
        fetch_saved_model(url, progress=lambda done, _: seen.append(done))
    assert max(seen, default=0) == (0 if lengths else 98_304)
    assert list_cache(empty_cache) == set()


def test_a_server_need_not_say_how_long_it_is(server: Server) -> None:
    server.lengths = False
    seen: list[int | None] = []
    check_good(fetch_saved_model(server.put("a", GOOD), progress=lambda _, all: seen.append(all)))
    assert set(seen) == {None}


def test_a_full_disk_is_told_before_the_download(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "free_bytes", lambda _: 1000)
    with pytest.raises(BackboneError, match=r"0 MB are free in .* set HEADSTART_CACHE"):
        fetch_saved_model(server.put("net.tar.gz", GOOD))


def test_two_processes_fetch_it_once(server: Server, empty_cache: Path) -> None:
    url = server.put("net.tar.gz", GOOD)
    code = f"from headstart.models.downloads import fetch_saved_model as f; print(f({url!r}))"
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = {run.communicate(timeout=600)[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(folders) == 1
    check_good(Path(folders.pop()))
    assert len(server.asked) == 1


def test_a_process_waits_for_another(server: Server, empty_cache: Path) -> None:
    from filelock import FileLock

    url = server.put("net.tar.gz", GOOD)
    fetch_saved_model(url)
    (lock,) = (empty_cache / "saved_models").glob("*.lock")
    done = threading.Event()
    thread = threading.Thread(target=lambda: (fetch_saved_model(url), done.set()))
    with FileLock(lock):
        thread.start()
        assert not done.wait(0.3)
    thread.join()
    assert done.is_set()


# ---- the cache


@pytest.mark.parametrize("damage", ["flip", "remove", "add", "record"])
def test_damage_in_the_cache_is_found_and_mended(
    server: Server, empty_cache: Path, damage: str
) -> None:
    url = server.put("net.tar.gz", GOOD)
    folder = fetch_saved_model(url)
    graph = folder / "saved_model.pb"
    if damage == "flip":
        graph.write_bytes(b"x" + GRAPH[1:])
    elif damage == "remove":
        graph.unlink()
    elif damage == "add":
        (folder / "saved_model.cpb").touch()
    else:
        (folder.parent / "record.json").write_text("{")
    check_good(fetch_saved_model(url))
    assert len(server.asked) == 2
    assert not (folder / "saved_model.cpb").exists()


def test_what_changed_at_its_source_is_refused(server: Server) -> None:
    url = server.put("net.tar.gz", GOOD)
    folder = fetch_saved_model(url)
    record = json.loads((folder.parent / "record.json").read_text())
    assert record["source"] == url
    assert record["sha256"] == hashlib.sha256(GOOD).hexdigest()
    (folder / "saved_model.pb").unlink()
    server.put("net.tar.gz", pack({"saved_model.pb": b"other"}))
    with pytest.raises(BackboneError, match=r"has changed: its sha256 was .* delete ") as caught:
        fetch_saved_model(url)
    shutil.rmtree(str(caught.value).rpartition("delete ")[2])
    assert (fetch_saved_model(url) / "saved_model.pb").read_bytes() == b"other"


def test_litter_of_a_killed_process_is_cleared(server: Server, empty_cache: Path) -> None:
    url = server.put("net.tar.gz", GOOD)
    folder = fetch_saved_model(url).parent
    folder.rename(folder.with_name(f"{folder.name}.tmp"))
    check_good(fetch_saved_model(url))
    assert list_cache(empty_cache) == {"entry"}


# ---- archives


@pytest.mark.parametrize("name", ["net.tar.gz", "net.tgz", "net.tar"])
def test_archives_on_disk_are_unpacked(name: str, tmp_path: Path, empty_cache: Path) -> None:
    mode = "w" if name.endswith(".tar") else "w:gz"
    archive = tmp_path / name
    archive.write_bytes(
        pack({"net/saved_model.pb": GRAPH, "net/variables/variables.index": b"index"}, mode)
    )
    check_good(fetch_saved_model(str(archive)))
    check_good(
        fetch_saved_model(archive.as_uri(), hashlib.sha256(archive.read_bytes()).hexdigest())
    )
    with pytest.raises(BackboneError, match="not 0000"):
        fetch_saved_model(str(archive), "0" * 64)
    folder = fetch_saved_model(str(archive))
    assert folder.name == "net"
    assert fetch_saved_model(str(folder)) == folder
    assert fetch_saved_model(folder.as_uri()) == folder


def make(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "above": ({"../outside": b"x"}, r"'../outside' points out of the archive"),
    "above within": ({"a/../../outside": b"x"}, "points out of the archive"),
    "absolute": ({"/outside": b"x"}, "'/outside' points out of the archive"),
    "drive": ({"C:\\outside": b"x"}, "has a name that is not a plain path"),
    "control": ({"a\nb": b"x"}, "has a name that is not a plain path"),
    "symbolic link": (
        {"link": make("link", tarfile.SYMTYPE, "/etc/passwd")},
        r"'link' is a link \(to '/etc/passwd'\)",
    ),
    "link inside": ({"l": make("l", tarfile.SYMTYPE, "saved_model.pb")}, "is a link"),
    "hard link": ({"l": make("l", tarfile.LNKTYPE, "../outside")}, "is a link"),
    "device": ({"null": make("null", tarfile.CHRTYPE)}, "neither a plain file nor a folder"),
    "pipe": ({"pipe": make("pipe", tarfile.FIFOTYPE)}, "neither a plain file nor a folder"),
    "twice": ({"Saved_model.pb": b"x"}, "'Saved_model.pb' is there twice"),
}


@pytest.mark.parametrize("kind", BAD)
def test_archives_that_point_outside_are_refused_before_anything_is_written(
    kind: str, server: Server, empty_cache: Path, tmp_path: Path
) -> None:
    members, sentence = BAD[kind]
    url = server.put("net.tar.gz", pack({"saved_model.pb": GRAPH, **members}))
    with pytest.raises(BackboneError, match=sentence) as caught:
        fetch_saved_model(url)
    assert "Nothing was unpacked" in str(caught.value)
    assert list_cache(empty_cache) == set()
    assert not list(tmp_path.rglob("outside"))
    with pytest.raises(BackboneError, match=sentence):
        archives.unpack_archive(
            _write(tmp_path / "net.tar.gz", server.files["/net.tar.gz"]), tmp_path / "new"
        )
    assert not (tmp_path / "new").exists()


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _bomb() -> bytes:
    # 64 MiB of zeros declared and packed: 64 kB.
    return pack({"saved_model.pb": bytes(2**26)})


def _endless_header() -> bytes:
    # The extension of a header, 64 MiB long, which tarfile would read into memory.
    info = make("long", tarfile.XHDTYPE, size=2**26)
    return gzip.compress(info.tobuf() + bytes(2**26) + make("a").tobuf() + bytes(1024))


def _many() -> bytes:
    return pack({f"{number}": b"" for number in range(200)})


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (_bomb, "it unpacks to more than"),
        (_endless_header, "a header in it is larger than 1 MiB"),
        (_many, "it has more than 100 members"),
        (lambda: pack({}), "it is empty"),
        (lambda: GOOD[:-1000], "is not a .tar.gz, or a damaged one"),
        (
            lambda: GOOD[:20_000] + bytes([GOOD[20_000] ^ 1]) + GOOD[20_001:],
            "is not a .tar.gz, or a damaged one",
        ),
        (lambda: b"\x1f\x8bnothing", "is not a .tar.gz, or a damaged one"),
        (lambda: b"", "is not a .tar.gz, or a damaged one"),
        (lambda: b"<!DOCTYPE html><title>Models</title>", "is a web page, not a .tar.gz"),
    ],
    ids=["bomb", "header", "many", "empty", "cut", "flipped", "magic", "nothing", "page"],
)
def test_bombs_and_damage_are_refused(
    build: Callable[[], bytes], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_UNPACKED_BYTES", 2**25)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 100)
    archive = _write(tmp_path / "net.tar.gz", build())
    with pytest.raises(BackboneError, match=sentence):
        archives.unpack_archive(archive, tmp_path / "new")
    assert not (tmp_path / "new").exists() or build() != _bomb()


def test_no_room_to_unpack_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "free_bytes", lambda _: 1000)
    with pytest.raises(BackboneError, match="unpacks to 0 MB; 0 MB are free"):
        archives.unpack_archive(_write(tmp_path / "net.tar.gz", GOOD), tmp_path / "new")


# ---- addresses


@pytest.mark.parametrize(
    ("page", "download"),
    [
        (
            "https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector/5",
            "https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector/5"
            "?tf-hub-format=compressed",
        ),
        (
            "https://www.kaggle.com/models/google/mobilenet-v2/frameworks/tensorFlow2/variations/"
            "100-224-feature-vector/versions/2",
            "https://www.kaggle.com/api/v1/models/google/mobilenet-v2/tensorFlow2/"
            "100-224-feature-vector/2/download",
        ),
        (
            "https://kaggle.com/models/google/mobilenet-v2/TensorFlow2/100-224-feature-vector/2",
            "https://www.kaggle.com/api/v1/models/google/mobilenet-v2/tensorFlow2/"
            "100-224-feature-vector/2/download",
        ),
        (
            "https://www.kaggle.com/api/v1/models/a/b/tensorFlow2/c/1/download",
            "https://www.kaggle.com/api/v1/models/a/b/tensorFlow2/c/1/download",
        ),
        ("https://example.org/net.tar.gz?x=1", "https://example.org/net.tar.gz?x=1"),
    ],
)
def test_pages_lead_to_their_downloads(page: str, download: str) -> None:
    assert find_download(page) == download


def test_pages_that_do_not_say_which_file_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"does not say which file: .*VARIATION/VERSION"):
        find_download("https://www.kaggle.com/models/google/mobilenet-v2")
    with pytest.raises(BackboneError, match="is a model for tfLite; needed is a TF2 SavedModel"):
        find_download("https://www.kaggle.com/models/google/mobilenet-v2/tfLite/default/1")


def test_missing_packages_are_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    url = server.put("net.tar.gz", GOOD)
    for package in ("requests", "filelock"):
        with monkeypatch.context() as patch:
            patch.setattr(
                importlib.util,
                "find_spec",
                lambda name, p=package: None if name == p else find(name),
            )
            with pytest.raises(MissingPackageError, match=rf"{package}.*headstart\[cpu\]"):
                fetch_saved_model(url)
    assert server.asked == []


def test_progress_is_a_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, file = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    transfer._report(5_000_000, 12_000_000)
    transfer._report(12_000_000, 12_000_000)
    assert terminal.getvalue() == "\rfetching: 5.0 of 12.0 MB\rfetching: 12.0 of 12.0 MB\n"
    monkeypatch.setattr(sys, "stderr", file)
    transfer._report(5, 12)
    assert file.getvalue() == ""
