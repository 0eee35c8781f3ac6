"""Fine-tuning from the freeze boundary: is it the same, is it faster, does it help?

    HEADSTART_TEST_PHOTOS=... python benchmarks/fine_tuning.py PART [--limit 5]

PART is one of:

equality  50 steps of SGD from cached activations against the whole network in plain Keras with a
          frozen prefix, on the same batches; with float16 activations: decisions changed.
speed     10 epochs of the last block, one view, extraction included, against the same in plain
          Keras beside it (photos decoded in memory beforehand for Keras, which is not charged).
accuracy  --data cifar: the recipe "tune" with given settings against the probe, on the test
          photos: accuracy with interval, paired difference, seconds.
search    --data cifar --settings '{…}' '{…}': recipes compared on training photos that are held out
          (the first of five folds); test photos are not touched. This is how defaults were chosen.
few       5, 10 and 20 training photos a class: tuned against the probe, on the test photos; the
          interval of the mean gain is over the draws.
nested    the recipe as it is used, choices and all, against the probe, by repeated cross-validation
          over all photos of a set: each photo is answered by what has not seen it.
kills     a run that is killed at random moments and started again until it ends: the same bundle?
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import photos as photo_sets
from measure import make_parser, read_journal, save_rows, write_journal

# Networks without packaged weights have random ones, which changes no time and no equality.
NETWORKS = ("efficientnet-lite0", "VGG16", "MobileNetV2", "ResNet50")
STEPS, BATCH = 50, 16
# That are averaged at prediction.
VIEWS = (2, 4, 8)


def load_network(name: str, size: int) -> Any:
    """A backbone; those of keras.applications with random weights and pixels scaled to ±1."""
    import keras

    from headstart import load_backbone

    keras.utils.set_random_seed(0)
    if name == "efficientnet-lite0":
        return load_backbone(image_size=size)
    body = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(size, size, 3)
    )
    pixels = keras.Input((size, size, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
    return keras.Model(pixels, body(scaled), name=name.lower())


# ---- equality


def check_equality(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per network."""
    size = 96
    folder = photo_sets.data_root() / "clothing" / "train"
    paths = photo_sets.list_photos(folder)[:: max(1, 1000 // options.count)][: options.count]
    from headstart.data.decode import decode_photo

    pixels = np.stack([decode_photo(path.read_bytes(), size) for path in paths])
    names = sorted({path.parent.name for path in paths})
    labels = np.array([names.index(path.parent.name) for path in paths])
    return [compare(name, pixels.astype(np.float32), labels) for name in options.networks]


def compare(name: str, pixels: Any, labels: Any) -> dict[str, Any]:
    """The same 50 steps in three ways: whole, from float32, from float16 activations."""
    import keras

    from headstart.models.boundary import cut
    from headstart.models.unfreeze import resolve_unfreeze, set_trainable
    from headstart.training.network import MOST_GRADIENT

    rate, classes = (1e-3 if "lite" in name else 1e-4), int(labels.max()) + 1
    whole = load_network(name, pixels.shape[1])
    unfreeze = resolve_unfreeze(whole, "last_block")
    set_trainable(whole, unfreeze)
    head = keras.layers.Dense(classes, name="head")
    x = keras.layers.GlobalAveragePooling2D()(whole.output)
    model = keras.Model(whole.input, head(x))
    kernel = np.random.default_rng(0).normal(size=head.kernel.shape).astype(np.float32)
    features = np.asarray(keras.Model(whole.input, x)(pixels[:32], training=False))
    kernel *= 1 / np.abs(features).mean() / len(kernel)
    head.kernel.assign(kernel)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # The product clips gradients; its peer has to as well.
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, global_clipnorm=MOST_GRADIENT)
    model.compile(optimizer, loss)
    before = {v.path: v.numpy() for v in model.trainable_variables}

    prefix, _ = cut(load_network(name, pixels.shape[1]), unfreeze.boundary)
    parts = [prefix(pixels[i : i + 32], training=False) for i in range(0, len(pixels), 32)]
    exact = np.concatenate([np.asarray(part) for part in parts])
    theirs = []
    batches = [
        np.random.default_rng(step).permutation(len(labels))[:BATCH] for step in range(STEPS)
    ]
    for rows in batches:
        theirs.append(float(model.train_on_batch(pixels[rows], labels[rows])))
    network, ours = train_cached(name, pixels.shape[1], exact, labels, batches, (kernel, rate))
    half, _ = train_cached(
        name, pixels.shape[1], exact.astype(np.float16), labels, batches, (kernel, rate)
    )
    after = {v.path: v.numpy() for v in network.variables}
    final = {v.path: v.numpy() for v in model.trainable_variables}
    moved = np.sqrt(sum(((final[path] - before[path]) ** 2).sum() for path in final))
    apart = np.sqrt(sum(((final[path] - after[path]) ** 2).sum() for path in final))
    answers = [n.compute_logits(exact).argmax(1) for n in (network, half)]
    changed = float((answers[0] != answers[1]).mean())
    return {
        "network": name,
        "boundary": unfreeze.boundary.name,
        "steps": STEPS,
        "loss, first": theirs[0],
        "loss, last": theirs[-1],
        "largest relative loss difference": float(
            max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
        ),
        "weights apart / moved": float(apart / moved),
        # Random weights give features that hardly differ between photos: decisions are chance.
        "float16: decisions changed": changed if "lite" in name else None,
        "photos": len(labels),
    }


def train_cached(
    name: str, size: int, activations: Any, labels: Any, batches: Any, start: tuple[Any, float]
) -> tuple[Any, list[float]]:
    """The product's network after the steps, and the loss of each."""
    from headstart.models.unfreeze import resolve_unfreeze
    from headstart.recipe import FineTune
    from headstart.training.network import Network

    classes, (kernel, rate) = int(labels.max()) + 1, start
    backbone = load_network(name, size)
    settings = FineTune(
        optimizer="sgd", dropout=0.0, label_smoothing=0.0, mixup=0.0, batch_size=BATCH
    )
    network = Network(backbone, resolve_unfreeze(backbone, "last_block"), classes, settings)
    network.start(network.get(), kernel, np.zeros(classes, np.float32))
    eye, losses = np.eye(classes, dtype=np.float32), []
    for rows in batches:
        targets, weights = eye[labels[rows]], np.ones(len(rows))
        random = np.random.default_rng(0)
        losses.append(
            network.train_step(activations[rows], targets, weights, (rate, rate), random)[0]
        )
    return network, losses


# ---- speed


def measure_speed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row: seconds of both ways, beside each other, and the ceilings."""
    import keras

    from headstart import attach_head, load_backbone
    from headstart.data.scan import scan_folder
    from headstart.features.activations import open_activations
    from headstart.models.boundary import cut_prefix
    from headstart.models.loaders import load_prefix
    from headstart.models.unfreeze import resolve_unfreeze
    from headstart.recipe import FineTune
    from headstart.training.loop import Context, Data, Run, make_schedule
    from headstart.training.network import Network
    from headstart.training.objective import encode_classes

    name, size = options.network, 224
    folder = photo_sets.data_root() / "clothing" / "train"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HEADSTART_CACHE"] = cache
        manifest = scan_folder(folder)
        kept = manifest.samples[:: max(1, len(manifest.samples) // options.count)]
        manifest = type(manifest)(kept)
        names = manifest.class_names
        labels = np.array([names.index(sample.label) for sample in kept])
        prefix = load_prefix(name if "lite" in name else load_network(name, size))
        start = time.perf_counter()
        backbone = prefix.build_model()
        unfreeze = resolve_unfreeze(backbone, "last_block")
        settings = FineTune(epochs=options.epochs, views=1, mixup=0.0, head_factor=1.0)
        network = Network(backbone, unfreeze, len(names), settings)
        source = open_activations(cut_prefix(prefix, unfreeze.boundary, backbone), manifest)
        extracted = time.perf_counter() - start
        rows = np.arange(len(labels))
        data = Data(source, encode_classes(labels, len(names)), rows, rows[:0])
        schedule = make_schedule(settings, 1e-4)
        Run("speed", network, data, schedule, Context(0)).finish()
        ours = time.perf_counter() - start
    pixels = photo_sets.decode_all([sample.path for sample in kept])
    plain = load_backbone(name) if "lite" in name else load_network(name, size)
    model = attach_head(plain, len(names), unfreeze="last_block")
    model.compile(keras.optimizers.AdamW(1e-4), "sparse_categorical_crossentropy")
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((pixels, labels)).shuffle(len(labels), seed=0)
    dataset = dataset.batch(32).map(lambda x, y: (tf.cast(x, tf.float32), y)).prefetch(2)
    seconds = []
    for _ in range(options.peer_epochs):
        start = time.perf_counter()
        model.fit(dataset, epochs=1, shuffle=False, verbose=0)
        seconds.append(time.perf_counter() - start)
    # The first epoch holds the tracing; the others are alike.
    theirs = seconds[0] + (options.epochs - 1) * float(np.mean(seconds[1:] or seconds))
    before, after = unfreeze.boundary.multiply_adds_before, unfreeze.boundary.multiply_adds_after
    ceiling = options.epochs * (before + 3 * after) / (before + options.epochs * 3 * after)
    return [
        {
            "network": name,
            "photos": len(labels),
            "epochs": options.epochs,
            "headstart s": ours,
            "of it extraction s": extracted,
            "plain Keras s": theirs,
            "epochs of Keras measured": options.peer_epochs,
            "times": theirs / ours,
            "ceiling by multiply-adds": ceiling,
        }
    ]


# ---- accuracy


def measure_accuracy(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The probe and the tuned network on the same test photos, which are read once."""
    from headstart.evaluation.intervals import compare_hits

    folder = photo_sets.data_root() / options.data
    truth, probe, _ = fit_and_predict(folder, options, None)
    _, tuned, classifier = fit_and_predict(folder, options, json.loads(options.settings[0]))
    found = compare_hits(tuned == truth, probe == truth, seed=0)
    paths = photo_sets.list_photos(folder / "test")
    viewed = {views: classifier.predict(paths, views=views) == truth for views in VIEWS}
    evaluation, tuning = classifier.evaluation, classifier.tuning
    return [
        {
            "data": options.data,
            "settings": options.settings[0],
            "probe": float((probe == truth).mean()),
            "tuned": evaluation.accuracy.value,
            "tuned low": evaluation.accuracy.low,
            "tuned high": evaluation.accuracy.high,
            **{f"tuned, {views} views": float(hits.mean()) for views, hits in viewed.items()},
            "gain": found.difference.value,
            "gain low": found.difference.low,
            "gain high": found.difference.high,
            "share": tuning.share,
            "rate": tuning.learning_rate,
            "epochs": tuning.epochs,
            "held out": str(tuning.gain),
            "MB": tuning.cached_bytes / 1e6,
            "seconds": classifier.seconds["total"],
        }
    ]


def fit_and_predict(
    folder: Path, options: argparse.Namespace, settings: dict[str, Any] | None
) -> tuple[Any, Any, Any]:
    """Truth and answers on the test photos; of the probe without settings."""
    from headstart import ImageClassifier
    from headstart.recipe import choose_recipe

    recipe = "probe" if settings is None else choose_recipe("tune", **settings)
    classifier = ImageClassifier(recipe=recipe, seed=options.seed)
    classifier.fit(folder, callbacks=[lambda epoch: print(epoch, file=sys.stderr, flush=True)])
    paths = photo_sets.list_photos(folder / "test")
    return np.array([p.parent.name for p in paths]), classifier.predict(paths), classifier


# ---- search


def search(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per recipe: the held-out fold, at the end and between the probe and the end."""
    folder = photo_sets.data_root() / options.data
    return [try_settings(folder, options, settings) for settings in options.settings]


def try_settings(folder: Path, options: argparse.Namespace, text: str) -> dict[str, Any]:
    """Train on four folds, measure on the fifth; the mirror image is averaged in where said."""
    from headstart.data.split import list_folds
    from headstart.features.activations import open_activations
    from headstart.features.extract import extract_manifest, scan_photos
    from headstart.models.boundary import cut_prefix
    from headstart.models.loaders import load_prefix
    from headstart.models.unfreeze import resolve_unfreeze
    from headstart.recipe import FineTune
    from headstart.training.library import number_labels
    from headstart.training.loop import (
        Context,
        Data,
        Run,
        compute_logits,
        make_schedule,
    )
    from headstart.training.network import Network
    from headstart.training.objective import encode_classes
    from headstart.training.probe import fit_probe

    settings = FineTune(**{"learning_rate": 3e-4, "patience": 1000, **json.loads(text)})
    prefix, manifest = load_prefix("efficientnet-lite0"), scan_photos(folder / "train")
    backbone = prefix.build_model()
    unfreeze = resolve_unfreeze(backbone, settings.unfreeze, settings.batchnorm)
    features = extract_manifest(prefix, manifest)
    ends = cut_prefix(prefix, unfreeze.boundary, backbone)
    source = open_activations(ends, manifest, views=settings.views)
    names = manifest.class_names
    labels = number_labels([sample.label for sample in source.samples], names)
    digests = [sample.digest for sample in source.samples]
    train, held = next(iter(list_folds(labels, digests, 5, options.seed)))
    inner = list_folds(labels[train], [digests[row] for row in train], 5, options.seed)
    x = features.array.astype(np.float32)
    probe = fit_probe(x[train], labels[train], len(names), inner)
    network = Network(backbone, unfreeze, len(names), settings)
    network.start(network.get(), probe.kernel, probe.bias)
    start = network.get()
    schedule = make_schedule(settings, settings.learning_rate or 0.0)
    targets = encode_classes(labels, len(probe.class_weights), probe.class_weights)
    data = Data(source, targets, train, held)
    begun = time.perf_counter()
    run = Run("search", network, data, schedule, Context(options.seed))
    run.finish()
    seconds, end = time.perf_counter() - begun, network.get()
    found: dict[str, Any] = {"data": options.data, "settings": text, "held out": len(held)}
    for share in (0.0, 0.5, 0.75, 1.0):
        network.set([(1 - share) * a + share * b for a, b in zip(start, end, strict=True)])
        logits = compute_logits(network, source, held)
        found[f"loss {share}"], found[f"accuracy {share}"] = targets.take(held).measure(logits)
        if share == 0.75 and settings.views > 1:
            both = (logits + compute_logits(network, source, held, 1)) / 2
            found["accuracy 0.75, mirrored"] = targets.take(held).measure(both)[1]
    found |= {"MB": source.bytes / 1e6, "seconds an epoch": seconds / settings.epochs}
    print(found, file=sys.stderr, flush=True)
    return found


# ---- few photos


def measure_few(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per number of photos: means over draws."""
    known = read_journal(options.rows) if options.rows else []
    key = {"data": options.data, "settings": options.settings[0]}
    rows = []
    for count in options.sizes:
        draws = []
        for draw in range(options.draws):
            asked = {**key, "photos a class": count, "draw": draw}
            found = next((row for row in known if asked.items() <= row.items()), None)
            if found is None:
                found = {**asked, **measure_draw(options, count, draw)}
                if options.rows:
                    write_journal(options.rows, found)
            draws.append(found)
            print(found, file=sys.stderr, flush=True)
        differences = np.array([each["tuned"] - each["probe"] for each in draws])
        drawn = np.random.default_rng(0).choice(differences, (10_000, len(differences)))
        low, high = np.quantile(drawn.mean(1), (0.025, 0.975))
        rows.append(
            {
                **key,
                "photos a class": count,
                "draws": options.draws,
                "probe": float(np.mean([each["probe"] for each in draws])),
                "tuned": float(np.mean([each["tuned"] for each in draws])),
                "mean gain": float(np.mean(differences)),
                "low": float(low),
                "high": float(high),
                "worst": float(np.min(differences)),
                "best": float(np.max(differences)),
                "draws with a change": sum(each["share"] > 0 for each in draws),
            }
        )
    return rows


def measure_draw(options: argparse.Namespace, count: int, draw: int) -> dict[str, float]:
    """Accuracy on all test photos of what was trained on so many of each class."""
    from headstart import ImageClassifier
    from headstart.recipe import choose_recipe

    folder = photo_sets.data_root() / options.data
    test = photo_sets.list_photos(folder / "test")
    truth = np.array([path.parent.name for path in test])
    chosen = [
        path
        for group in sorted((folder / "train").iterdir())
        for path in random.Random(f"{draw} {group.name}").sample(
            photo_sets.list_photos(group), count
        )
    ]
    labels = [path.parent.name for path in chosen]
    probe = ImageClassifier(recipe="probe", seed=draw).fit(chosen, labels)
    recipe = choose_recipe("tune", **json.loads(options.settings[0]))
    tuned = ImageClassifier(recipe=recipe, seed=draw).fit(chosen, labels)
    right = [float((each.predict(test) == truth).mean()) for each in (probe, tuned)]
    return {"probe": right[0], "tuned": right[1], "share": float(tuned.tuning.share)}


# ---- nested


def cross_validate(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row: as many folds as ``draws``, five to a repeat."""
    from out_of_fold import Photos

    from headstart import ImageClassifier
    from headstart.data.split import list_folds
    from headstart.evaluation.intervals import compare_hits
    from headstart.recipe import choose_recipe

    photos = Photos(photo_sets.data_root() / options.data)
    paths = [sample.path for sample in photos.samples]
    names = np.array([sample.label for sample in photos.samples])
    repeats = range(-(-options.draws // 5))
    folds = [fold for r in repeats for fold in list_folds(photos.labels, photos.groups, 5, r)]
    hits: list[Any] = []
    rows: list[int] = []
    changed, start = 0, time.perf_counter()
    for train, held in folds[: options.draws]:
        chosen, labels = [paths[row] for row in train], names[train].tolist()
        probe = ImageClassifier(recipe="probe", seed=options.seed).fit(chosen, labels)
        recipe = choose_recipe("tune", **json.loads(options.settings[0]))
        tuned = ImageClassifier(recipe=recipe, seed=options.seed).fit(chosen, labels)
        asked = [paths[row] for row in held]
        hits.append([each.predict(asked) == names[held] for each in (probe, tuned)])
        rows += held.tolist()
        changed += bool(tuned.tuning.share)
        print([hit.mean() for hit in hits[-1]], tuned.tuning.says, file=sys.stderr, flush=True)
    before, after = np.concatenate(hits, axis=1)
    gain = compare_hits(after, before, [photos.groups[row] for row in rows]).difference
    return [
        {
            "data": options.data,
            "settings": options.settings[0],
            "photos": len(paths),
            "folds": len(hits),
            "probe": float(before.mean()),
            "tuned": float(after.mean()),
            "gain": gain.value,
            "low": gain.low,
            "high": gain.high,
            "folds with a change": changed,
            "seconds a fold": (time.perf_counter() - start) / len(hits),
        }
    ]


# ---- kills

_KILLED = ("--unfreeze", "last_block", "--epochs", "3", "--augment", "2", "--learning-rate", "1e-4")


def count_kills(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs that are killed until one ends; each must write the bundle of an undisturbed run.

    One kill in two comes at a random moment between the first step and the end, the other while a
    random checkpoint is written. Kills before that are those of benchmarks/kills.py.
    """
    tests = Path(__file__).parent.parent / "tests"
    sys.path[:0] = [str(tests), str(tests / "features")]
    from accidents import TUNING, Stop, Trainer, write_gratings

    chance, runs, equal = random.Random(options.seed), 0, 0
    kills: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder, bundle = Path(scratch), Path(scratch) / "a.headstart"
        photos = write_gratings(folder / "photos", 20)
        with Trainer(photos, folder, _KILLED, TUNING) as trainer:
            run = trainer.run(folder / "cache", bundle)
            assert run.status == 0, run.stderr
            whole, checkpoints = bundle.read_bytes(), run.counts["checkpoint"]
            length = run.moments["end"] - run.moments["step"]
            while kills.total() < options.kills:
                bundle.unlink()
                for _ in range(min(chance.randint(1, 4), options.kills - kills.total())):
                    if chance.random() < 0.5:
                        stop = Stop("step", chance.uniform(0, length))
                    else:
                        stop = Stop("checkpoint", chance.uniform(0, 0.02), chance.randint(1, 5))
                    if trainer.run(folder / "cache", bundle, stop).status:
                        kills[stop.phase] += 1
                last = trainer.run(folder / "cache", bundle)
                assert last.status == 0, last.stderr
                runs += 1
                equal += bundle.read_bytes() == whole
                print(dict(kills), f"{runs} runs, {equal} equal", file=sys.stderr, flush=True)
    return [
        {
            "kills": kills.total(),
            "of them while a checkpoint is written": kills["checkpoint"],
            "checkpoints of a run": checkpoints,
            "runs": runs,
            "equal bundles": equal,
        }
    ]


PARTS = {
    "equality": check_equality,
    "speed": measure_speed,
    "accuracy": measure_accuracy,
    "search": search,
    "few": measure_few,
    "nested": cross_validate,
    "kills": count_kills,
}


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--count", type=int, default=200, help="photos, of equality and speed")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="of equality")
    parser.add_argument("--network", default="efficientnet-lite0", help="of speed")
    parser.add_argument("--epochs", type=int, default=10, help="of speed")
    parser.add_argument("--peer-epochs", type=int, default=3, help="of Keras that are measured")
    parser.add_argument(
        "--data", nargs="+", default=["cifar"], help="of accuracy, search, few and nested"
    )
    parser.add_argument("--settings", nargs="+", default=["{}"], help="JSON, of FineTune")
    parser.add_argument("--draws", type=int, default=10, help="of few; folds of nested")
    parser.add_argument("--sizes", nargs="+", type=int, default=[5, 10, 20], help="of few")
    parser.add_argument("--rows", type=Path, help="journal of few: a run goes on from it")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    for data in options.data:
        rows += PARTS[options.part](argparse.Namespace(**{**vars(options), "data": data}))
    name = f"fine_tuning_{options.part}"
    save_rows(name, rows, options, is_full=options.limit is None)


if __name__ == "__main__":
    main()
