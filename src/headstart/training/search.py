"""Settings of fine-tuning searched for by Optuna; every trial reads the same cached activations.

One trial trains on one fold and is measured on the photos held out; after each epoch a trial that
is behind the median of those before it ends. Configurations are proposed by the Tree-structured
Parzen Estimator (Bergstra et al. 2011, https://papers.nips.cc/paper/4443). The first trial has the
settings of the recipe ``tune``. Trials are remembered as they end: a search that is killed goes on
with the next one.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.budget import OutOfTimeError
from headstart.errors import require_package
from headstart.files import cache_folder, digest_bytes
from headstart.models.boundary import Prefix, build_copy, cut_prefix
from headstart.models.unfreeze import resolve_unfreeze
from headstart.quiet import start_tensorflow
from headstart.recipe import FineTune
from headstart.training.fine_tune import build_network, identify, open_source
from headstart.training.loop import Context, Epoch
from headstart.training.nodes import spread
from headstart.training.probe import Probe
from headstart.training.source import Source
from headstart.training.stage import Stage
from headstart.training.tuning import Options, Photos

if TYPE_CHECKING:
    import optuna

# What is tried. Depth and views decide what is cached: each is computed once, whatever the number
# of trials.
DEPTHS, VIEWS, RATES, EPOCHS = ("last_block", "half", "most"), (1, 3, 6), (1e-4, 3e-3), 8

# Trials, where no budget ends the search.
MOST_TRIALS = 30

# Trials before the median counts, and epochs of a trial.
_WARM_TRIALS, _WARM_EPOCHS = 4, 1


@dataclass(frozen=True)
class Found:
    """What a search gave.

    Attributes:
        settings: Of the best trial.
        loss: Its log loss on the photos held out, after the best temperature.
        trials: That were finished.
        pruned: That ended early.
    """

    settings: FineTune
    loss: float
    trials: int
    pruned: int


@dataclass(frozen=True)
class FewerViews:
    """The first views of activations that have more."""

    source: Source
    views: int

    def read(self, rows: npt.NDArray[np.intp], views: npt.NDArray[np.intp] | int = 0) -> Any:
        """``(row, *shape)`` activations of samples, each in its view."""
        return self.source.read(rows, views)


@dataclass
class Search:
    """A search over the settings of one stage.

    Attributes:
        prefix: Of the backbone, to its pooled features.
        photos: What is trained and chosen on.
        probe: The head that every trial starts from.
        seed: Of everything random.
        options: Runtime and who is told; its ``check`` ends the search.
        trials: At most.
        depths: Values of ``unfreeze`` that are tried.
    """

    prefix: Prefix
    photos: Photos
    probe: Probe
    seed: int
    options: Options
    trials: int = MOST_TRIALS
    depths: tuple[str, ...] = DEPTHS
    _sources: dict[str, Source] = field(default_factory=dict, repr=False)
    _opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    def run(self) -> Found | None:
        """Try settings until the trials or the time are over; None where none was finished.

        Raises:
            MissingPackageError: Optuna is not installed.
        """
        require_package("optuna", purpose="searching for settings")
        import optuna

        start_tensorflow()
        # A trial that the end of the budget or Ctrl-C stops is no failure to warn of.
        self._opened.callback(optuna.logging.set_verbosity, optuna.logging.get_verbosity())
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = self._open_study()
        if not study.trials:
            study.enqueue_trial(self._name_defaults())
        with self._opened, contextlib.suppress(OutOfTimeError):
            while sum(trial.state.is_finished() for trial in study.trials) < self.trials:
                if self.options.check is not None:
                    self.options.check()
                study.optimize(self._try, n_trials=1, catch=())
        done = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
        if not done:
            return None
        pruned = sum(t.state == optuna.trial.TrialState.PRUNED for t in study.trials)
        best = min(done, key=lambda trial: trial.value or 0.0)
        return Found(_make_settings(best.params), float(best.value or 0.0), len(done), pruned)

    def _open_study(self) -> optuna.Study:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        folder = cache_folder() / "searches"
        folder.mkdir(parents=True, exist_ok=True)
        what = identify(self.prefix, self.photos, self.probe, FineTune(), self.seed, "")
        name = digest_bytes(json.dumps([what, self.depths], default=str).encode())[:32]
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / f"{name}.log")))
        pruner = optuna.pruners.MedianPruner(_WARM_TRIALS, _WARM_EPOCHS)
        study = optuna.create_study(
            study_name=name, storage=storage, pruner=pruner, load_if_exists=True
        )
        # A search that goes on must not propose again what it has proposed.
        seed = self.seed + len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=6)
        return study

    def _name_defaults(self) -> dict[str, Any]:
        usual = FineTune()
        unfreeze = usual.unfreeze if usual.unfreeze in self.depths else self.depths[0]
        return {
            **{name: getattr(usual, name) for name in ("layer_decay", "weight_decay", "mixup")},
            "unfreeze": unfreeze,
            "views": min(usual.cached_views, max(VIEWS)),
            "learning_rate": float(np.clip(usual.learning_rates[1], *RATES)),
        }

    def _try(self, trial: optuna.Trial) -> float:
        """Loss on the photos held out, as the stage compares settings."""
        import optuna

        settings = _make_settings(
            {
                "unfreeze": trial.suggest_categorical("unfreeze", self.depths),
                "views": trial.suggest_categorical("views", VIEWS),
                "learning_rate": trial.suggest_float("learning_rate", *RATES, log=True),
                "layer_decay": trial.suggest_float("layer_decay", 0.5, 1.0),
                "weight_decay": trial.suggest_float("weight_decay", 1e-4, 0.1, log=True),
                "mixup": trial.suggest_categorical("mixup", (0.0, 0.3, 1.0)),
            }
        )
        source = self._open(settings)

        def report(epoch: Epoch) -> None:
            for callback in self.options.callbacks:
                callback(replace(epoch, run=f"trial {trial.number + 1}: {_describe(settings)}"))
            if epoch.validation_loss is not None:
                trial.report(epoch.validation_loss, epoch.number)
                if trial.should_prune():
                    raise optuna.TrialPruned

        classes, photos = len(self.photos.class_names), len(self.photos.train)
        network = build_network(self.prefix, settings, classes, photos)
        assert network is not None  # noqa: S101 - for the type checker; a depth trains something
        spread(network, photos)
        context = Context(self.seed, None, (report,), self.options.check)
        viewed = FewerViews(source, settings.cached_views)
        loss = Stage(network, viewed, self.photos, self.probe, context).try_fold()
        if loss is None:
            raise optuna.TrialPruned
        return loss

    def _open(self, settings: FineTune) -> Source:
        """Activations in all views, computed once per depth."""
        name = str(settings.unfreeze)
        if name not in self._sources:
            backbone = build_copy(self.prefix)
            unfreeze = resolve_unfreeze(backbone, settings.unfreeze, settings.batchnorm)
            most = replace(settings, views=max(VIEWS))
            ends = cut_prefix(self.prefix, unfreeze.boundary, backbone)
            self._sources[name] = self._opened.enter_context(
                open_source(ends, unfreeze.boundary, self.photos, most, self.seed, self.options)
            )
        return self._sources[name]


def _make_settings(found: dict[str, Any]) -> FineTune:
    return FineTune(epochs=EPOCHS, **found)


def _describe(settings: FineTune) -> str:
    return (
        f"{settings.unfreeze}, {settings.views} views, rate {settings.learning_rate:.1e}, "
        f"decay {settings.layer_decay:.2f}, mixup {settings.mixup:g}"
    )
