"""headstart cache: verify, prune and clear, as a user meets them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from headstart.cli import main
from headstart.features.cache import SHARD_SECONDS, ActivationCache, Space
from headstart.features.index import BEAT_SECONDS, LAPSE_SECONDS
from headstart.features.maintenance import DEFAULT_LIMIT

SPACE = Space("net", "00", "pooled", (50,), 224, 1, "onnxruntime 1.0")


class Done(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command of ``headstart cache`` in this process."""

    def command(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["headstart", "cache", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(int(leaving.value.code or 0), captured.out, captured.err)

    return command


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of two shards."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.delenv("HEADSTART_CACHE_BYTES", raising=False)
    for number in range(2):
        cache = ActivationCache(SPACE)
        cache.append([(f"photo{number}", 0)], np.full((1, 50), number))
        cache.flush()
        cache.close()
    return tmp_path


def list_shards(folder: Path) -> list[Path]:
    return sorted((folder / "activations-v1").glob("*.npy"))


def test_verify(run: Any, folder: Path) -> None:
    done = run("verify")
    assert (done.status, done.stdout) == (0, "2 shards checked, 0.0 MB\n")
    first = list_shards(folder)[0]
    first.write_bytes(first.read_bytes()[:-1] + b"\xff")
    (folder / "activations-v1" / "x.npy").write_bytes(b"left by a kill")
    done = run("verify")
    assert done.status == 1
    assert f"damaged, removed: {first}" in done.stdout
    assert "1 shard of 2 damaged; 1 activation will be computed again" in done.stdout
    assert "1 file of interrupted runs removed" in done.stdout
    assert run("verify").status == 0


def test_verify_json(run: Any, folder: Path) -> None:
    first = list_shards(folder)[0]
    first.unlink()
    done = run("verify", "--json")
    found = json.loads(done.stdout)
    assert done.status == 1
    assert found == {
        "folder": str(folder),
        "shards": 2,
        "bytes": found["bytes"],
        "damaged": [str(first)],
        "photos": 1,
        "litter": 0,
    }


def test_prune(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("prune").stdout == "0 shards removed, 0.0 MB; 0.0 MB left\n"
    assert run("prune", "--older-than", "1h").status == 0
    assert len(list_shards(folder)) == 2
    last = list_shards(folder)[1]
    found = json.loads(run("prune", "--max-size", "300", "--json").stdout)
    assert found == {
        "folder": str(folder),
        "shards": 1,
        "bytes": last.stat().st_size,
        "left_bytes": last.stat().st_size,
        "held": 0,
        "litter": 0,
    }
    assert list_shards(folder) == [last]
    running = ActivationCache(SPACE)
    assert running.missing(["photo1"]) == []
    monkeypatch.setenv("HEADSTART_CACHE_BYTES", "0")
    assert "1 shard kept because running processes use them" in run("prune").stdout
    running.close()
    assert "1 shard removed" in run("prune").stdout


@pytest.mark.parametrize(
    "arguments", [["--max-size", "much"], ["--older-than", "30"], ["--older-than", "x"]]
)
def test_prune_refuses_what_it_does_not_understand(run: Any, arguments: list[str]) -> None:
    done = run("prune", *arguments)
    assert done.status == 2
    assert "accepted are" in " ".join(done.stderr.split())


def test_a_limit_that_is_no_size(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE_BYTES", "lots")
    for command in ("info", "prune"):
        done = run(command)
        assert done.status == 1
        assert 'HEADSTART_CACHE_BYTES: "lots" is not a size' in done.stderr


def test_clear_asks_on_a_terminal_only(
    run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("clear")
    assert done.status == 1
    assert "Nothing was removed" in done.stderr
    assert "--yes" in done.stderr

    class Terminal:
        """Somebody at the keyboard."""

        answer = "n"

        def isatty(self) -> bool:
            return True

        def readline(self, *_: int) -> str:
            return self.answer + "\n"

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert run("clear").status == 1
    assert len(list_shards(folder)) == 2
    monkeypatch.setattr(Terminal, "answer", "y")
    assert "2 shards removed" in run("clear").stdout
    assert list_shards(folder) == []


def test_clear_yes(run: Any, folder: Path) -> None:
    assert "2 shards removed" in run("clear", "--yes").stdout
    assert list_shards(folder) == []
    assert json.loads(run("clear", "-y", "--json").stdout)["shards"] == 0


def test_info_names_the_limit(run: Any) -> None:
    assert "at most 20.0 GB" in run("info").stdout


def test_clear_in_a_script_without_input(folder: Path) -> None:
    command = [sys.executable, "-m", "headstart", "cache", "clear"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 1
    assert len(list_shards(folder)) == 2


def test_the_document_names_the_commands_and_figures(run: Any) -> None:
    text = (Path(__file__).parents[2] / "docs" / "cache.md").read_text(encoding="utf-8")
    named = set(re.findall(r"headstart cache (\w+)", text))
    assert named == {command.name or command.callback.__name__ for command in listed()}
    assert f"by default `{DEFAULT_LIMIT}`" in text
    assert (SHARD_SECONDS, BEAT_SECONDS, LAPSE_SECONDS) == (15, 60, 600)
    for figure in ("last 15 seconds", "once a minute", "ten minutes", "65,504"):
        assert figure in " ".join(text.split())
    for name in run("verify", "--json").stdout, run("prune", "--json").stdout:
        assert all(f"`{key}`" in text for key in json.loads(name))


def listed() -> list[Any]:
    from headstart.cli.cache import cache_app

    return cache_app.registered_commands
