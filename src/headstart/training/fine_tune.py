"""Fine-tuning from the freeze boundary, the LP-FT way.

Kumar et al. 2022 (https://arxiv.org/abs/2202.10054): a random head would first distort the
pretrained features, so training starts from the solved head. Everything before the boundary was
computed once; the runs of `headstart.training.stage` read its activations.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from headstart.data.scan import Manifest
from headstart.errors import HeadstartError
from headstart.features.activations import open_activations
from headstart.features.forward import padded
from headstart.models.boundary import (
    INPUT,
    Boundary,
    Prefix,
    build_copy,
    build_prefix_model,
    cut_prefix,
)
from headstart.models.unfreeze import is_in_every_network, resolve_unfreeze
from headstart.quiet import start_tensorflow
from headstart.recipe import FineTune, Recipe
from headstart.runtimes import get_runtime
from headstart.task import CLASSIFICATION, Task
from headstart.training import hardware
from headstart.training.checkpoint import Checkpoints
from headstart.training.linear import LinearHead
from headstart.training.loop import Context
from headstart.training.network import Network
from headstart.training.nodes import spread
from headstart.training.pixels import Live, Pixels
from headstart.training.probe import Probe
from headstart.training.source import Source
from headstart.training.stage import Stage
from headstart.training.tuning import Options, Photos, Tuning

_LOGGER = logging.getLogger(__name__)


def tune(
    prefix: Prefix,
    photos: Photos,
    probe: Probe | LinearHead,
    settings: FineTune,
    *,
    seed: int,
    options: Options,
) -> Tuning | None:
    """Train suffix and head from the probe; None where nothing of the backbone is unfrozen.

    Args:
        prefix: Of the backbone, to its pooled features.
        photos: What to train and to choose on.
        probe: The head on pooled features to start from.
        settings: Of the stage.
        seed: Of everything random.
        options: Runtime and who is told.

    Raises:
        BoundaryError: The setting ``unfreeze`` names nothing that can be trained.
        CacheError, DatasetError, HeadstartError: With what to do.
    """
    count = len(photos.train)
    network = build_network(prefix, settings, len(photos.class_names), count, photos.task)
    if network is None:
        return None
    unfreeze, count = network.unfreeze, count + len(photos.validation)
    _LOGGER.info(describe_price(unfreeze.boundary, count, settings, options.seconds_per_photo))
    ends = cut_prefix(prefix, unfreeze.boundary, network.backbone)
    with open_source(ends, unfreeze.boundary, photos, settings, seed, options) as source:
        identity = identify(ends, photos, probe, settings, seed, options.runtime)
        context = Context(seed, Checkpoints(identity), options.callbacks, options.check)
        why_here = spread(network, len(photos.train))
        tuning = Stage(network, source, photos, probe, context).run()
    tuning = replace(tuning, why_here=why_here)
    if network.is_shared:  # what a user gets has plain variables
        plain = build_copy(prefix)
        plain.set_weights(tuning.backbone.get_weights())
        tuning = replace(tuning, backbone=plain)
    return tuning


def build_network(
    prefix: Prefix,
    settings: FineTune,
    num_classes: int,
    photos: int,
    task: Task = CLASSIFICATION,
) -> Network | None:
    """A copy of the backbone with what is trained of it; None where that is nothing.

    Args:
        prefix: Of the backbone.
        settings: Of the stage.
        num_classes: Number of classes.
        photos: That are trained on; the devices that share a batch depend on their number.
        task: What is told of a photo.

    Raises:
        BoundaryError: The setting ``unfreeze`` names nothing that can be trained.
    """
    start_tensorflow()
    found = hardware.find_hardware().choose(settings, photos)
    with found.scope():
        backbone = build_copy(prefix)
        unfreeze = resolve_unfreeze(backbone, settings.unfreeze, settings.batchnorm)
        if not unfreeze.layers:
            return None
        return Network(backbone, unfreeze, num_classes, settings, found.precision, task)


def check_unfreeze(prefix: Prefix, recipe: Recipe) -> None:
    """Refuse, before photos are forwarded, a setting that names nothing of the network.

    Raises:
        BoundaryError: It names nothing that can be trained.
    """
    settings = recipe.fine_tune
    if settings is not None and not is_in_every_network(settings.unfreeze):
        start_tensorflow()
        resolve_unfreeze(prefix.build_model(), settings.unfreeze, settings.batchnorm)


def describe_price(
    boundary: Boundary, photos: int, settings: FineTune, seconds_per_photo: float | None
) -> str:
    """What the activations will cost, before they are computed.

    >>> cut = Boundary("block5", (14, 14, 112), 43_904, 300_000_000, 100_000_000, 7)
    >>> describe_price(cut, 1000, FineTune(views=6), 0.01)
    '6 views of 1,000 photos up to block5: at most 263 MB of cache and about 45 s'
    >>> describe_price(cut, 1000, FineTune(views="live"), 0.01).partition(";")[0]
    '1 view of 1,000 photos up to block5: at most 44 MB of cache and about 8 s'
    """
    views = settings.cached_views
    size = views * photos * boundary.bytes_per_photo / 1e6
    noun = "view" if views == 1 else "views"
    what = f"{views} {noun} of {photos:,} photos"
    if boundary.name == INPUT:
        each = "a new view" if settings.is_live else f"one of {views} {noun}"
        return f"nothing is frozen: {each} of {photos:,} photos is decoded in every epoch"
    text = f"{what} up to {boundary.name}: at most {size:,.0f} MB of cache"
    if seconds_per_photo is None:
        return text
    seconds = photos * seconds_per_photo * boundary.share_before
    text += f" and about {views * seconds:,.0f} s"
    return f"{text}; a new view of each in every epoch" if settings.is_live else text


@contextlib.contextmanager
def open_source(
    prefix: Prefix,
    boundary: Boundary,
    photos: Photos,
    settings: FineTune,
    seed: int,
    options: Options,
) -> Iterator[Source]:
    """Activations at the boundary of a prefix, computed where they are not cached.

    Args:
        prefix: Ends at the boundary.
        boundary: Where that is.
        photos: Of the stage.
        settings: Their views are opened.
        seed: Of the views.
        options: Runtime and who is told.

    Raises:
        HeadstartError: A photo cannot be read any more.
    """
    samples = (*photos.train, *photos.validation)
    views = None if settings.is_live else settings.cached_views
    if boundary.name == INPUT:
        with Pixels(samples, prefix.image_size, views, seed) as pixels:
            yield pixels
        return

    def progress(done: int, total: int) -> None:
        if options.check is not None:
            options.check()
        if options.progress is not None:
            options.progress(done, total)

    found = open_activations(
        prefix,
        Manifest(samples),
        views=settings.cached_views,
        seed=seed,
        runtime=options.runtime,
        progress=progress,
    )
    if found.problems:
        first = found.problems[0]
        raise HeadstartError(f"{first.path} {first.reason}. Run again.")
    if views is not None:
        yield found
        return
    runtime = get_runtime(found.runtime.partition(" ")[0])
    session = padded(runtime.open(prefix, lambda: build_prefix_model(prefix)))
    with (
        Pixels(samples, prefix.image_size, None, seed) as pixels,
        Live(pixels, found, session) as live,
    ):
        yield live


def identify(
    prefix: Prefix,
    photos: Photos,
    probe: Probe | LinearHead,
    settings: FineTune,
    seed: int,
    runtime: str,
) -> dict[str, Any]:
    """All that the weights depend on; computed activations are named by what made them."""
    from importlib.metadata import version

    samples = [(s.digest, s.label) for side in (photos.train, photos.validation) for s in side]
    return {
        "prefix": (prefix.backbone, prefix.weights_digest, prefix.boundary, prefix.image_size),
        "task": photos.task.name,
        "samples": samples,
        "validation": len(photos.validation),
        "groups": photos.groups,
        "probe": probe.strength,
        "settings": settings,
        "hardware": hardware.find_hardware(),
        "seed": seed,
        "versions": [runtime, *map(version, ("headstart", "keras", "tensorflow", "numpy"))],
    }
