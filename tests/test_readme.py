"""The README is true: its session and its example are run, numbers apart."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headstart.cli.demo import write_digits

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(mark: str) -> str:
    """The code block after an HTML comment."""
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, mark
    return found[1]


def mask(text: str) -> list[str]:
    """Lines without numbers, names of confused classes and white space, which differ by machine."""
    lines = []
    for raw in text.splitlines():
        line = re.sub(r"(\d\s+\(\d+\))\s*$", "", raw)
        if line.startswith(("efficientnet-lite1", "efficientnet-lite2")):
            continue
        if " s: scan" in line:
            line = line.split(":")[0]
        lines.append(re.sub(r"[\d.,]+", "#", re.sub(r"\s+", " ", line)).strip())
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def session() -> tuple[str, list[tuple[str, str]]]:
    """The README's commands with what it says they print."""
    text = block("session")
    first, *rest = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    # What `headstart demo` prints contains two commands; they are part of its output.
    demo = [first, *("$ " + part for part in rest[:2])]
    commands = ["".join(demo), *rest[2:]]
    return text, [tuple(command.split("\n", 1)) for command in commands]  # type: ignore[misc]


def test_session(session: tuple[str, list[tuple[str, str]]], tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    for command, expected in session[1]:
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == "", command
        assert mask(done.stdout) == mask(expected), command


def test_mask_would_notice_a_changed_line() -> None:
    assert mask("accuracy 96.1% on 359 photos") == mask("accuracy 9% on 1 photos")
    assert mask("accuracy 96.1% on 359 photos") != mask("accuracy 96.1% on 359 images")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos of each of five digits; not to be changed."""
    folder = tmp_path_factory.mktemp("digits")
    everything = write_digits(folder / "all")
    for number in range(5):
        (folder / "photos" / str(number)).mkdir(parents=True)
        for path in sorted((everything / str(number)).iterdir())[:8]:
            shutil.copy(path, folder / "photos" / str(number))
    return folder / "photos"


@pytest.fixture
def photos(digits: Path, tmp_path: Path) -> Path:
    """The same in a folder of one's own, and beside it a photo."""
    shutil.copytree(digits, tmp_path / "photos")
    shutil.copy(digits / "4" / min(os.listdir(digits / "4")), tmp_path / "new.jpg")
    return tmp_path / "photos"


def test_example(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    names: dict[str, object] = {}
    exec(block("example"), names)
    assert names["model"].output_shape == (None, 5)  # type: ignore[attr-defined]
    assert names["features"].array.shape == (40, 1280)  # type: ignore[attr-defined]
    assert (photos.parent / "photos.headstart").exists()


# classic_keras.py is run by test_backbones_end_to_end.
SCRIPTS = {path.name for path in (ROOT / "examples").glob("*.py")} - {"classic_keras.py"}


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_examples_run(script: str, photos: Path) -> None:
    arguments = [str(photos)]
    if script == "train_and_predict.py":
        arguments.append(str(photos.parent / "new.jpg"))
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_documents_that_are_linked_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_tables_are_those_of_the_results() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "tables.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
