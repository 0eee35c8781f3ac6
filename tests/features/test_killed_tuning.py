"""Fine-tuning that is killed and started again ends in the same bits.

Processes of ``headstart train``; `benchmarks/fine_tuning.py kills` makes fifty random kills.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from accidents import TUNING, Stop, Trainer, link_weights, new_cache, write_gratings

from headstart.bundle import load_bundle

OPTIONS = ("--unfreeze", "last_block", "--epochs", "8", "--augment", "2", "--learning-rate", "1e-4")


def build_small_model() -> Any:
    """Three convolutions: most of the time of a run is its start."""
    import keras

    keras.utils.set_random_seed(0)
    x = photos = keras.Input((64, 64, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(x)
    for block in (1, 2, 3):
        x = keras.layers.Conv2D(16 * block, 3, 2, "same", name=f"block{block}_conv")(x)
        x = keras.layers.ReLU(name=f"block{block}_relu")(x)
    return keras.Model(photos, x, name="small")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_kills_in_steps_and_in_checkpoints(tmp_path: Path, cache: Path) -> None:
    photos = tmp_path / "photos"
    write_gratings(photos / "train", 14)
    write_gratings(photos / "test", 2, seed=1)
    model = build_small_model()
    model.save(tmp_path / "small.keras")
    options = ("--backbone", f"local:{tmp_path / 'small.keras'}", *OPTIONS)
    mine = new_cache(tmp_path / "cache", link_weights(cache, tmp_path))
    bundles = tmp_path / "whole.headstart", tmp_path / "killed.headstart"
    with Trainer(photos, tmp_path, options, TUNING) as trainer:
        whole = trainer.run(mine, bundles[0])
        assert whole.status == 0, whole.stderr
        assert load_bundle(bundles[0]).manifest["fine_tune"]["share"] == 0.75
        assert not list(mine.glob("checkpoints/*")), "a complete run leaves none"
        steps = whole.counts["step"]
        done = 0
        for stop in (
            Stop("step", count=2),
            Stop("checkpoint", 0.005, count=steps // 2),
            Stop("step", 0.02, count=2),
        ):
            killed = trainer.run(mine, bundles[1], stop)
            assert killed.status == -signal.SIGKILL, killed.stderr
            assert not bundles[1].exists()
            done += killed.counts["step"]
        last = trainer.run(mine, bundles[1])
    assert last.status == 0, last.stderr
    assert bundles[1].read_bytes() == bundles[0].read_bytes()
    # A kill costs at most the step that it meets, and the one whose checkpoint it meets.
    assert steps <= done + last.counts["step"] <= steps + 2 * 3
