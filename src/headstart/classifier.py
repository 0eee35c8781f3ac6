"""`ImageClassifier`: the object a user holds. scikit-learn's habits, Keras's result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.answers import Answers, Photos
from headstart.budget import Budget, make_budget
from headstart.bundle import THUMBNAILS, Bundle, load_bundle
from headstart.data.labelled import scan_labelled, unpack_dataset
from headstart.data.scan import Manifest, Problem
from headstart.data.table import scan_source
from headstart.engines import on_engine
from headstart.errors import HeadstartError, require_package
from headstart.evaluation.intervals import Estimate
from headstart.evaluation.tasks import AnyEvaluation, read_evaluation
from headstart.keeping import Keeping
from headstart.measuring import describe_trained, evaluate_manifest
from headstart.parameters import Parameters
from headstart.predictor import Predictor
from headstart.recipe import Recipe, choose_recipe
from headstart.runs import Run
from headstart.runtimes import AUTO, require_runtime
from headstart.task import Task, get_task, require_task
from headstart.tracking import tracked

if TYPE_CHECKING:
    import keras

    from headstart.features.extract import Progress
    from headstart.training.backbone_choice import BackboneChoice
    from headstart.training.measure import Answer, Contrast
    from headstart.training.plan import Plan
    from headstart.training.tuning import Callbacks, Tuning

# What a training gives and a classifier has under the same name.
_TAKEN = (
    *("tuning", "comparison", "cross_validation", "evaluation", "mistakes"),
    *("problems", "flags", "warnings", "plan", "backbone_choice"),
)

_NO_THUMBNAILS = (
    "No thumbnails were kept: with so few photos new ones are not compared with those of training."
)

# In a notebook: one row of thumbnails.
_SHOWN_MISTAKES = 8


class ImageClassifier(Answers, Keeping, Parameters):
    """An image classifier on a pretrained, frozen backbone.

    Args:
        backbone: A name of ``headstart backbones``; ``"auto"``, the one of those ready that suits
            the photos, see `headstart.training.backbone_choice`; or a Keras model from 0-255 RGB
            photos to a feature map or vector.
        recipe: What is trained: ``"probe"``, the linear head; ``"tune"``, then also the last part
            of the backbone; ``"search"``, with settings that are searched for; ``"auto"``, that
            only where time and photos say so (docs/budget.md); or a `headstart.recipe.Recipe`.
            None: ``"auto"`` with a budget, else ``"probe"``.
        unfreeze: What of the backbone is trained, such as ``"last_block"`` or 4 (layers), see
            `headstart.models.unfreeze.resolve_unfreeze`; implies ``recipe="tune"``.
        seed: Of everything random: the split and the folds of the cross-validation.
        runtime: What computes the frozen part: ``"onnxruntime"``, ``"openvino"``, ``"litert"``,
            ``"tensorflow"``, or ``"auto"``, the fastest that agrees with TensorFlow.
        group_by: Photos that belong together (one person, one day) and stay on one side of the
            split: a regular expression on paths, or the column of a table (by default ``group``).
        budget_seconds: What `fit` may take. A strict end: a step that is not finished by then is
            left out, and fewer seconds than the least that is needed are refused.
        keep_thumbnails: Whether the bundle keeps small pictures of training photos, to be shown
            as the most similar ones beside answers. Whoever has the bundle can see them.
        trackers: ``"tensorboard"`` and ``"mlflow"``, each also with ``=PLACE``: docs/tracking.md.
        task: What is told of a photo: ``"classification"``, its class; ``"multilabel"``, several
            labels or none; ``"regression"``, a number. See docs/tasks.md.
        engine: Where it computes, ``"local"`` or ``"ray"``; None: as `headstart.engines` is set.

    Attributes:
        classes_: ``(class,)`` the class names, sorted; after `fit`.
        evaluation: Measured on the test photos; None before `fit`, or without test photos.
        mistakes: Test photos that were answered wrongly, the most confident first.
        problems: Files that were not used, with reasons.
        flags: Photos that were used although they may be corrupt, with reasons.
        warnings: Sentences about the photos.
        seconds: Time per step.
        plan: What was predicted and what came of it; None without a budget.
        backbone_choice: The backbones that were compared; None where one was named.
        tuning: What fine-tuning gave; None without it.
        comparison: The result beside simpler ones, on the test photos.
        cross_validation: Accuracy of the probe over all photos, where test photos are few.

    Example::

        clf = ImageClassifier().fit("photos/")
        print(clf.evaluation)
        clf.predict(["new.jpg"])
        clf.save("photos.headstart")
    """

    def __init__(
        self,
        backbone: str | keras.Model = "efficientnet-lite0",
        *,
        recipe: str | Recipe | None = None,
        unfreeze: str | int | None = None,
        seed: int = 0,
        runtime: str = AUTO,
        group_by: str | None = None,
        budget_seconds: float | None = None,
        keep_thumbnails: bool = False,
        trackers: str | Sequence[str] = (),
        task: str = "classification",
        engine: str | None = None,
    ) -> None:
        self.backbone = backbone
        self.recipe = recipe
        self.unfreeze = unfreeze
        self.seed = seed
        self.runtime = runtime
        self.group_by = group_by
        self.budget_seconds = budget_seconds
        self.keep_thumbnails = keep_thumbnails
        self.trackers = trackers
        self.task = task
        self.engine = engine
        self.evaluation: AnyEvaluation | None = None
        self.mistakes: tuple[Answer, ...] = ()
        self.problems: tuple[Problem, ...] = ()
        self.flags: tuple[Problem, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.seconds: dict[str, float] = {}
        self.tuning: Tuning | None = None
        self.comparison: tuple[Contrast, ...] = ()
        self.cross_validation: Estimate | None = None
        self.plan: Plan | None = None
        self.backbone_choice: BackboneChoice | None = None
        self._bundle: Bundle | None = None
        self._run: Run | None = None
        self._predictor: Predictor | None = None
        self._model: keras.Model | None = None

    # ---- training

    @on_engine
    @tracked
    def fit(
        self,
        X: Photos,
        y: Sequence[Any] | None = None,
        *,
        test: str | Path | None = None,
        earlier: Bundle | None = None,
        progress: Progress | None = None,
        callbacks: Callbacks = (),
        initial: str | Path | ImageClassifier | None = None,
        budget: Budget | None = None,
        on_plan: Callable[[Plan], None] | None = None,
    ) -> ImageClassifier:
        """Train; returns self.

        Args:
            X: A folder with one folder per class (or train/validation/test folders of such); a
                CSV file or a DataFrame with the columns path, label, optionally split and group;
                or, with ``y``, photos: paths, encoded bytes, Pillow images or uint8 arrays; or a
                `tf.data.Dataset` of pairs.
            y: ``(photo,)`` labels. All photos are trained on then, and `evaluation` is None unless
                ``test`` is given.
            test: A folder or table of test photos. Without it, and without a test folder inside,
                about 20 % of each class are set aside, see docs/splits.md.
            earlier: The `bundle` of an earlier fit with the same seed, whose split is gone on with.
            progress: Called with ``(done, all)`` photos.
            callbacks: Each is called with every `headstart.training.loop.Epoch` of fine-tuning.
            initial: A bundle or fitted classifier whose backbone is gone on from; the photos may
                have other classes.
            budget: One that has begun before this call, instead of ``budget_seconds``.
            on_plan: Called with what is planned, before anything long starts.

        Raises:
            HeadstartError: One of its kinds, with what to do; `BudgetError` where the budget is
                less than the least that is needed.
        """
        budget, task = budget or make_budget(self.budget_seconds), get_task(self.task)
        require_package("scipy", "threadpoolctl", "onnx", purpose="training")
        require_runtime(self.runtime)
        if not isinstance(self.seed, int) or self.seed < 0:
            raise HeadstartError(f"seed is {self.seed!r}; accepted are whole numbers from 0 on.")
        from headstart.models.loaders import load_prefix
        from headstart.stopwatch import Stopwatch
        from headstart.training.backbone_choice import choose_backbone
        from headstart.training.pack import make_bundle
        from headstart.training.rebuild import continue_from
        from headstart.training.record import make_run
        from headstart.training.targets import choose_training
        from headstart.training.tuning import check_callbacks

        check_callbacks(callbacks)
        recipe = self.recipe or ("auto" if budget else "probe")
        recipe, stopwatch = choose_recipe(recipe, unfreeze=self.unfreeze), Stopwatch()
        recipe = self._check_recipe(task, recipe, budget)
        is_open = isinstance(self.backbone, str) and self.backbone == "auto"
        prefix = None if is_open else load_prefix(self.backbone)
        with stopwatch.step("scan"):
            if hasattr(X, "as_numpy_iterator"):
                require_task(task, "Training from a tf.data.Dataset")
                X, y = unpack_dataset(X)
            scanned, tested = self._scan(X, y, test, task)
        choice, compared = None, 0.0
        if prefix is None:
            with stopwatch.step("prefix"):
                choice = choose_backbone(
                    scanned, seed=self.seed, runtime=self.runtime, budget=budget
                )
            compared = stopwatch.seconds["prefix"]
            prefix = load_prefix(choice.chosen)
        if initial is not None:
            before = initial if isinstance(initial, ImageClassifier) else load(initial)
            prefix = continue_from(prefix, before.bundle, before._trained_backbone)
        training = choose_training(task, budget=budget, on_plan=on_plan)(
            prefix,
            scanned,
            recipe,
            seed=self.seed,
            runtime=self.runtime,
            stopwatch=stopwatch,
            test=tested,
            earlier=earlier.manifest.get("split") if earlier else None,
            use_all=y is not None,
            progress=progress,
            callbacks=callbacks,
        )
        if training.plan is not None:
            training.plan.finish(stopwatch.report(), compared)
        training = replace(training, backbone_choice=choice)
        for name in _TAKEN:
            setattr(self, name, getattr(training, name))
        self._bundle = make_bundle(prefix, training, self.seed, self.keep_thumbnails)
        if self.keep_thumbnails and THUMBNAILS not in self._bundle.members:
            self.warnings += (_NO_THUMBNAILS,)
        self.classes_ = np.array(training.class_names)
        self._predictor = self._model = None
        self.seconds = stopwatch.report()
        sources = {"photos": X if y is None else None, "test": test, "group_by": self.group_by}
        self._run = make_run(training, self._bundle, self.seconds, sources)
        return self

    def _check_recipe(self, task: Task, recipe: Recipe, budget: Budget | None) -> Recipe:
        """Refuse what is not installed or not made for the task; the recipe that is left."""
        from headstart.training.targets import check_task_recipe

        if isinstance(self.backbone, str) and self.backbone == "auto":
            require_task(task, 'The choice of a backbone (backbone="auto")')
        if self.keep_thumbnails:
            require_task(task, "Keeping thumbnails, to be shown as similar photos,")
        return check_task_recipe(recipe, task, budget is not None)

    def _scan(self, X: Any, y: Any, test: Any, task: Task) -> tuple[Manifest, Manifest | None]:
        by = self.group_by
        manifest = scan_source(X, by, task) if y is None else scan_labelled(X, y, by, task)
        return manifest, scan_source(test, by, task) if test is not None else None

    # ---- using

    @on_engine
    def evaluate(self, photos: str | Path | Any, *, views: int = 1) -> AnyEvaluation:
        """Measure on labelled photos: a folder with one folder per class, or a table.

        With ``views`` above 1 the views of each photo are averaged, see `predict`.

        Unreadable photos are left out and added to `problems`; `warnings` counts trained ones.

        Raises:
            DatasetError: No photos, or a class that the classifier does not know.
        """
        manifest = scan_source(photos, task=self.bundle.task)
        predictor = self.predictor if views == 1 else Predictor(self.bundle, views=views)
        evaluation, problems = evaluate_manifest(predictor, manifest, self.seed)
        self.problems = problems
        self.warnings = (*manifest.warnings, *describe_trained(self.bundle, manifest))
        return evaluation

    @property
    def bundle(self) -> Bundle:
        """What `save` writes.

        Raises:
            HeadstartError: `fit` was not called.
        """
        if self._bundle is None:
            raise HeadstartError("This ImageClassifier is not fitted yet; call fit(photos) first.")
        return self._bundle

    @property
    def model(self) -> keras.Model:
        """The classifier as one plain Keras model: 0-255 RGB photos → probabilities.

        Raises:
            MissingPackageError: TensorFlow is not installed.
            BundleError: It was trained on a Keras model that is not in the catalogue, and was
                loaded from a file, which holds that model only as a graph for prediction.
        """
        if self._model is None:
            require_package("tensorflow", "keras", purpose="building the Keras model")
            from headstart.training.rebuild import rebuild_classifier

            self._model = rebuild_classifier(self.bundle, self._trained_backbone)
        return self._model

    @property
    def _trained_backbone(self) -> keras.Model | None:
        # An object where it is tuned or was given as one; of others the name says enough.
        if self.tuning is not None and self.tuning.share:
            return self.tuning.backbone
        return None if isinstance(self.backbone, str) else self.backbone

    def __repr__(self) -> str:
        return f"ImageClassifier({', '.join(f'{k}={v!r}' for k, v in self.get_params().items())})"

    def _repr_html_(self) -> str:
        from headstart.evaluation.html import show_evaluation

        pictures = [mistake.show() for mistake in self.mistakes[:_SHOWN_MISTAKES]]
        return show_evaluation(
            repr(self), self.evaluation, self.warnings, len(self.problems), pictures
        )


def load(path: str | Path) -> ImageClassifier:
    """The classifier of a bundle.

    Raises:
        BundleError: The file is not a bundle, is damaged, or is too new.
    """
    bundle = load_bundle(Path(path))
    manifest = bundle.manifest
    classifier = ImageClassifier(
        manifest["backbone"]["name"],
        recipe=manifest["recipe"]["name"],
        seed=manifest["seed"],
        task=bundle.task.name,
        keep_thumbnails=THUMBNAILS in bundle.members,
    )
    classifier._bundle = bundle
    classifier.classes_ = np.array(bundle.class_names)
    if manifest.get("evaluation"):
        classifier.evaluation = read_evaluation(manifest["evaluation"], bundle.task)
    return classifier
