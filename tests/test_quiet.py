"""Chatter of native libraries is dropped, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from headstart.quiet import hushed


def test_what_is_written_within_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(2, b"before ")
    with hushed():
        os.write(2, b"chatter ")
    os.write(2, b"after")
    assert capfd.readouterr().err == "before after"


def test_errors_pass_and_stderr_is_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="seen"), hushed():
        raise ValueError("seen")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_tensorflow_starts_without_a_word() -> None:
    code = "from headstart.quiet import start_tensorflow; start_tensorflow()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.skipif(os.name == "nt", reason="the shell closes it otherwise there")
def test_a_process_without_stderr_goes_on() -> None:
    code = "from headstart.quiet import hushed\nwith hushed(): print(1)"
    shell = f"{sys.executable} -c '{code}' 2>&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
