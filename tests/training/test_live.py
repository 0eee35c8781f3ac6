"""Training from photos: new views in every epoch, and the whole network."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import needs_time
from small_network import build_small

import headstart
from headstart import ImageClassifier
from headstart.data.scan import Sample, scan_folder
from headstart.errors import DatasetError, HeadstartError
from headstart.features.activations import open_activations
from headstart.models.boundary import cut_prefix
from headstart.models.loaders import load_prefix
from headstart.models.unfreeze import resolve_unfreeze
from headstart.recipe import FineTune, Recipe, choose_recipe
from headstart.runtimes import TOLERANCE
from headstart.training import loop
from headstart.training.fine_tune import open_source
from headstart.training.forecast import Amounts, Speed, forecast_stage
from headstart.training.loop import Context, Data, Run, Schedule
from headstart.training.network import Network
from headstart.training.objective import encode_classes
from headstart.training.pixels import Live, Pixels
from headstart.training.source import read_ahead
from headstart.training.tuning import Options, Photos

QUICK = {"epochs": 3, "learning_rate": 1e-3, "batch_size": 16, "holdout": 0.0, "views": "live"}


def read_digits(folder: Path) -> tuple[tuple[Sample, ...], np.ndarray]:
    samples = scan_folder(folder).samples
    return samples, np.array([int(sample.label) for sample in samples], np.intp)


def test_a_pass_over_the_whole_network_is_that_of_plain_keras(digits_folder: Path) -> None:
    samples, labels = read_digits(digits_folder)
    settings = FineTune(
        "all", optimizer="sgd", batch_size=16, epochs=1, views=1, mixup=0, dropout=0,
        label_smoothing=0,
    )  # fmt: skip
    model, schedule = build_small(), Schedule(0.02, 0.02, 1, 1, 0.1)
    network = Network(model, resolve_unfreeze(model, "all"), 4, settings)
    kernel = 0.1 * np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    network.start(network.get(), kernel, np.zeros(4, np.float32))
    ours: list[float] = []
    step = network.train_step

    def watch(*arguments: Any) -> tuple[float, float]:
        ours.append(step(*arguments)[0])
        return ours[-1], 0.0

    network.train_step = watch  # type: ignore[method-assign]
    rows = np.arange(len(samples))
    with Pixels(samples, 12, 1, 0) as pixels:
        photos = pixels.read(rows).astype(np.float32)
        data = Data(pixels, encode_classes(labels, 4), rows, rows[:0])
        Run("test", network, data, schedule, Context(0)).finish()

    class Follow(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate.assign(schedule.rates(batch, 5)[0])

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            theirs.append(logs["loss"])  # the mean of the epoch so far

    theirs: list[float] = []
    twin, head = build_small(), keras.layers.Dense(4)
    whole = keras.Model(twin.input, head(keras.layers.GlobalAveragePooling2D()(twin.output)))
    head.kernel.assign(kernel)
    for layer in whole.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    whole.compile(keras.optimizers.SGD(0.0, momentum=0.9, global_clipnorm=5.0), loss)
    order = np.random.default_rng([0, 2, 0]).permutation(rows)
    whole.fit(photos[order], labels[order], 16, shuffle=False, verbose=0, callbacks=[Follow()])
    means = np.cumsum(ours) / np.arange(1, len(ours) + 1)
    assert len(means) == len(theirs) == 5
    assert max(ours) - min(ours) > 100 * TOLERANCE, "the curve is not flat"
    np.testing.assert_allclose(means, theirs, atol=TOLERANCE)


def test_a_view_that_is_drawn_is_the_one_that_would_be_cached(few_digits: Path) -> None:
    manifest, model = scan_folder(few_digits), build_small()
    prefix = load_prefix(model)
    boundary = resolve_unfreeze(model, "block3").boundary
    ends = cut_prefix(prefix, boundary, model)
    cached = open_activations(ends, manifest, views=4, seed=5)
    photos = Photos(manifest.samples, (), (), np.empty(0), ())
    settings = FineTune("block3", views="live")
    rows = np.array([3, 0, 7, 5, 11])
    views = np.array([1, 0, 3, 2, 0])
    with open_source(ends, boundary, photos, settings, 5, Options()) as live:
        assert isinstance(live, Live)
        assert live.views > 10_000
        found = live.read(rows, views)
        np.testing.assert_array_equal(found, cached.read(rows, views))
        np.testing.assert_array_equal(live.read(rows), cached.read(rows))
        others = live.read(rows, views + 1000)
    assert (found != others).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("unfreeze", ["last_block", pytest.param("all", marks=needs_time)])
def test_what_is_interrupted_goes_on_to_the_same_bits(
    unfreeze: str, digits_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    step, done, stop = Network.train_step, [0], [10_000]

    def count(self: Network, *arguments: Any) -> Any:
        if done[0] == stop[0]:
            raise KeyboardInterrupt
        done[0] += 1
        return step(self, *arguments)

    monkeypatch.setattr(Network, "train_step", count)
    recipe, model = choose_recipe("tune", unfreeze=unfreeze, **QUICK), build_small()
    whole = ImageClassifier(model, recipe=recipe).fit(digits_folder)
    steps = done[0]
    assert whole.tuning is not None
    assert whole.tuning.share == 1.0
    done[0], stop[0] = 0, steps // 2
    stopped = ImageClassifier(model, recipe=recipe).fit(digits_folder)
    assert stopped.tuning is None, "Ctrl-C leaves the probe"
    assert "Fine-tuning was stopped; run again" in stopped.warnings[-1]
    stop[0] = 10_000
    again = ImageClassifier(model, recipe=recipe).fit(digits_folder)
    assert done[0] == steps, "what was done is not done again"
    assert again.tuning is not None
    for name, array in whole.tuning.arrays.items():
        assert array.tobytes() == again.tuning.arrays[name].tobytes(), name
    assert (
        again.bundle.manifest["fine_tune"]["history"]
        == (whole.bundle.manifest["fine_tune"]["history"])
    )


def test_a_photo_that_is_gone_is_named(few_digits: Path, tmp_path: Path) -> None:
    samples, _ = read_digits(few_digits)
    gone = Sample(tmp_path / "gone.png", "0", "0" * 64)
    with (
        Pixels((*samples, gone), 12, None, 0) as pixels,
        pytest.raises(DatasetError, match=r"gone\.png cannot be read any more"),
    ):
        list(read_ahead(pixels, [(np.array([0, len(samples)]), 1)]))


class Slow:
    """A source that knows how far it was read ahead of what is used."""

    views = 1

    def __init__(self) -> None:
        self.begun, self.used, self.most = 0, 0, 0
        self.lock = threading.Lock()

    def read(self, rows: np.ndarray, views: Any = 0) -> np.ndarray:
        with self.lock:
            self.begun += 1
            self.most = max(self.most, self.begun - self.used)
        return rows * 10


def test_batches_are_read_ahead_in_order_and_only_a_few() -> None:
    source = Slow()
    for number, (rows, found) in enumerate(
        read_ahead(source, [(np.array([n]), 0) for n in range(50)])
    ):
        assert (rows.tolist(), found.tolist()) == ([number], [10 * number])
        source.used += 1
    assert source.begun == 50
    assert 1 < source.most <= 4


def test_every_epoch_of_a_live_run_draws_other_views(few_digits: Path) -> None:
    samples, labels = read_digits(few_digits)
    asked: list[tuple[int, int]] = []

    class Watched(Pixels):
        def read(self, rows: np.ndarray, views: Any = 0) -> np.ndarray:
            if not np.isscalar(views):
                asked.extend(zip(rows.tolist(), views.tolist(), strict=True))
            return super().read(rows, views)

    model = build_small()
    settings = FineTune("all", epochs=4, batch_size=8, views="live")
    network = Network(model, resolve_unfreeze(model, "all"), 4, settings)
    rows = np.arange(len(samples))
    with Watched(samples, 12, None, 0) as pixels:
        data = Data(pixels, encode_classes(labels, 4), rows, rows[:0])
        Run("test", network, data, Schedule(1e-3, 1e-3, 4, 4, 0.1), Context(0)).finish()
    assert len(asked) == len(set(asked)) == 4 * len(samples)


def test_the_setting_is_read_kept_and_refused() -> None:
    recipe = choose_recipe("tune", views="live")
    assert Recipe.from_json(recipe.to_json()) == recipe
    for wrong in ("often", 0, 2.5):
        with pytest.raises(HeadstartError, match='whole numbers from 1 to 1000, and "live"'):
            FineTune(views=wrong)  # type: ignore[arg-type]


def test_a_forecast_counts_what_is_computed_in_every_epoch() -> None:
    amounts = Amounts(1000, 100, 100, 0.01)
    deep, whole = Speed(10.0, 0.003, 0.001, 0.8, 20_000), Speed(10.0, 0.02, 0.005, 0.0, 0)
    settings = {"epochs": 10, "learning_rate": 1e-3}
    one, six, live = (
        forecast_stage(deep, FineTune(views=views, **settings), amounts) for views in (1, 6, "live")
    )
    assert live.extract == one.extract < six.extract
    assert live.cached_bytes == one.cached_bytes == six.cached_bytes / 6
    # 10 epochs of 1,000 photos: decoding, and four fifths of the network.
    assert live.train - one.train == pytest.approx(10_000 * 0.01 * (0.25 + 0.75 * 0.8) * 1.15)
    assert six.train == one.train
    plain, drawn = (
        forecast_stage(whole, FineTune("all", views=views, **settings), amounts)
        for views in (1, "live")
    )
    assert plain.cached_bytes == plain.extract == 0
    assert drawn.train - plain.train == pytest.approx(10_000 * 0.01 * 0.25 * 0.15)


def test_the_library_tells_of_no_cache(few_digits: Path) -> None:
    found = headstart.fine_tune(build_small(), few_digits, unfreeze="all", **QUICK)
    assert found.tuning.cached_bytes == 0
    assert len(found.tuning.history) == 3
