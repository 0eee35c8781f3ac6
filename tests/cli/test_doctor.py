"""`headstart doctor --env`: the table, its JSON, and what it says where something is missing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headstart.cli.commands import app
from headstart.features import choice as choosing
from headstart.models.loaders import load_prefix
from headstart.runtimes.environment import describe_environment, get_memory_bytes
from headstart.runtimes.measure import Choice, Measurement, recall_choice

pytestmark = pytest.mark.usefixtures("empty_cache")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)


MEASURED = Choice(
    (
        Measurement("onnxruntime", 71.6, 2e-6),
        Measurement("openvino", problem='not installed: pip install "headstart[openvino]"'),
        Measurement("litert", 99.4, 0.02, "disagrees with TensorFlow; accepted are errors up to"),
        Measurement("tensorflow", 3.14, 0.0),
    ),
    "onnxruntime",
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "measure_prefix", lambda _prefix: MEASURED)


@pytest.mark.usefixtures("measured")
def test_the_table_says_who_is_chosen_and_what_is_missing() -> None:
    result = run("--env")
    assert result.exit_code == 0
    lines = [re.sub(" +", " ", line.strip()) for line in result.stdout.splitlines()]
    version = importlib.metadata.version
    assert f"tensorflow {version('tensorflow')}" in lines
    assert f"ai_edge_litert {version('ai-edge-litert')}" in lines
    assert any(re.fullmatch(r"memory [0-9.,]+ GB", line) for line in lines)
    assert any(line.startswith(f"cache {os.environ['HEADSTART_CACHE']}, 0.0 MB") for line in lines)
    assert lines[-4:] == [
        "onnxruntime 72 2.0e-06 chosen",
        'openvino not installed: pip install "headstart[openvino]"',
        "litert 99 2.0e-02 disagrees with TensorFlow; accepted are errors up to",
        "tensorflow 3.1 0.0e+00",
    ]


@pytest.mark.usefixtures("measured")
def test_the_json_has_the_same() -> None:
    found = json.loads(run("--env", "--json").stdout)
    assert found["chosen"] == "onnxruntime"
    assert found["backbone"] == "efficientnet-lite0"
    assert found["cores"] == os.cpu_count()
    assert found["packages"]["openvino"] == importlib.metadata.version("openvino")
    assert found["runtimes"][0] == {
        "runtime": "onnxruntime",
        "photos_per_second": 71.6,
        "relative_error": 2e-6,
        "problem": None,
        "agrees": True,
        "is_chosen": True,
    }
    assert [runtime["is_chosen"] for runtime in found["runtimes"]] == [True, False, False, False]
    assert found["runtimes"][2]["agrees"] is False


def test_without_env_it_says_what_there_is() -> None:
    result = run()
    assert result.exit_code == 2
    assert "look at the environment" in " ".join(result.stderr.replace("│", "").split())


def test_an_unknown_backbone_is_an_error_with_near_names() -> None:
    from headstart.errors import BackboneError

    with pytest.raises(BackboneError, match="Did you mean efficientnet-lite"):
        run("--env", "--backbone", "efficientnet-lite")


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name)
    )
    packages = describe_environment()["packages"]
    assert packages["openvino"] is None
    assert packages["onnxruntime"] == importlib.metadata.version("onnxruntime")


def test_memory_is_a_plausible_number() -> None:
    memory = get_memory_bytes()
    assert memory is None or 2**28 < memory < 2**45


# In a process of its own: a whole examination, and one where TensorFlow is missing.
DRIVER = """
import json, os, sys
for name in json.loads(os.environ["BLOCKED"]):
    sys.modules[name] = None
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: (
    None if name in json.loads(os.environ["BLOCKED"]) else find_spec(name, *rest)
)
from headstart.cli import main
sys.argv = ["headstart", "doctor", "--env", "--json"]
main()
"""


def examine(*blocked: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "BLOCKED": json.dumps(blocked)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_whole_examination_is_remembered(empty_cache: Path) -> None:
    found = examine()
    by_name = {each["runtime"]: each for each in found["runtimes"]}
    assert set(by_name) == {"onnxruntime", "openvino", "litert", "tensorflow"}
    assert all(each["agrees"] and each["photos_per_second"] > 0 for each in by_name.values())
    assert by_name["tensorflow"]["relative_error"] == 0
    fastest = max(by_name, key=lambda name: by_name[name]["photos_per_second"])
    assert found["chosen"] == fastest
    remembered = recall_choice(load_prefix("efficientnet-lite0"))
    assert remembered is not None
    assert remembered.chosen == fastest


def test_without_tensorflow_it_still_works() -> None:
    found = examine("tensorflow", "keras", "tf2onnx")
    by_name = {each["runtime"]: each for each in found["runtimes"]}
    assert found["packages"]["tensorflow"] is None
    assert by_name["openvino"]["problem"] == "not checked: TensorFlow is not installed"
    assert by_name["tensorflow"]["problem"] == 'not installed: pip install "headstart[cpu]"'
    assert found["chosen"] == "onnxruntime"
    assert recall_choice(load_prefix("efficientnet-lite0")) is None
