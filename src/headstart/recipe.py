"""What training does, as a frozen record that is printed, stored in the bundle and read back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from headstart.errors import HeadstartError, did_you_mean

# The setting ``views`` that draws new views in every epoch.
LIVE = "live"

# What BatchNormalization does where layers are trained: see `FineTune`.
BATCHNORM = ("inference", "affine", "train")


@dataclass(frozen=True)
class FineTune:
    """Settings of the stage that trains the last part of the backbone together with the head.

    Attributes:
        unfreeze: What is trained: ``"none"``, a number of layers, the name of a block,
            ``"last_block"``, ``"last_2_blocks"``, ``"half"`` or ``"most"`` (of the multiply-adds),
            a regular expression on layer names, ``"all"``.
        batchnorm: ``"inference"``, ``"affine"`` or ``"train"``; see
            `headstart.models.unfreeze.Unfreeze`.
        epochs: Passes over the training photos, at most.
        batch_size: Photos per step.
        optimizer: ``"adamw"``, or ``"sgd"`` with momentum 0.9.
        learning_rate: Of the backbone's last block, at its highest; None: chosen among
            `learning_rates` by a short sweep.
        learning_rates: What a sweep tries; the middle one is taken unless another is clearly
            better.
        head_learning_rate: Of the head; None: `head_factor` times `learning_rate`.
        head_factor: See there.
        layer_decay: Factor of the rate from one block to the one before it.
        warmup: Share of the steps in which the rate rises from 0; it falls as a cosine after.
        weight_decay: Decoupled; biases, scales and shifts are spared.
        l2_sp: Weight of half the squared distance to the pretrained weights in the loss (Li et al.
            2018, https://arxiv.org/abs/1802.01483).
        label_smoothing: Share of the target that is spread over all classes.
        dropout: Of the pooled features.
        mixup: Parameter of the Beta distribution by which activations and targets of two photos
            are mixed; 0 for none.
        views: Views of each photo, the central square included; each epoch takes another one, and
            all are cached. ``"live"``: a new view of each photo in every epoch, computed when it is
            needed.
        patience: Epochs without a better validation log loss after which training ends with the
            best weights; None: the rate falls to the end, and the last weights are taken unless
            earlier ones are clearly better.
        holdout: Share of the training photos on which the rate, the number of epochs and the
            interpolation are chosen, where there are no validation photos; afterwards all are
            trained on. 0: nothing is chosen, the last weights are taken.
    """

    unfreeze: str | int = "most"
    batchnorm: str = "inference"
    epochs: int = 14
    batch_size: int = 32
    optimizer: str = "adamw"
    learning_rate: float | None = None
    learning_rates: tuple[float, ...] = (2e-4, 5e-4, 1e-3)
    head_learning_rate: float | None = None
    head_factor: float = 3.0
    layer_decay: float = 1.0
    warmup: float = 0.1
    weight_decay: float = 0.01
    l2_sp: float = 0.0
    label_smoothing: float = 0.1
    dropout: float = 0.2
    mixup: float = 1.0
    views: int | str = 6
    patience: int | None = None
    holdout: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            HeadstartError: A value out of its range, with the range.
        """
        if isinstance(self.learning_rates, list):  # from JSON
            object.__setattr__(self, "learning_rates", tuple(self.learning_rates))
        rates = self.learning_rates
        low, high = _RANGES["learning_rate"][1:]
        if not rates or not all(type(r) in (int, float) and low <= r <= high for r in rates):
            raise HeadstartError(
                f"learning_rates is {rates!r}; accepted are one or more numbers from {low:g} to "
                f"{high:g}."
            )
        for name, (kind, low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in ("learning_rate", "head_learning_rate", "patience"):
                continue
            if name == "views" and value == LIVE:
                continue
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not low <= value <= high or (kind is int and value != int(value)):
                noun = "whole numbers" if kind is int else "numbers"
                also = f', and "{LIVE}"' if name == "views" else ""
                raise HeadstartError(
                    f"{name} is {value!r}; accepted are {noun} from {low:g} to {high:g}{also}."
                )
        for name, accepted in (("optimizer", ("adamw", "sgd")), ("batchnorm", BATCHNORM)):
            if (value := getattr(self, name)) not in accepted:
                raise HeadstartError(
                    f"{name} is {value!r}.{did_you_mean(str(value), accepted)} Accepted: "
                    f"{', '.join(accepted)}."
                )

    @property
    def is_nothing(self) -> bool:
        """Whether nothing of the backbone is trained, so that only the probe is left.

        >>> FineTune("none").is_nothing, FineTune("last_block").is_nothing
        (True, False)
        """
        return str(self.unfreeze) in ("none", "0")

    @property
    def is_live(self) -> bool:
        """Whether views are drawn in every epoch."""
        return self.views == LIVE

    @property
    def cached_views(self) -> int:
        """Views of each photo that are kept.

        >>> FineTune().cached_views, FineTune(views="live").cached_views
        (6, 1)
        """
        return 1 if isinstance(self.views, str) else self.views


_RANGES: dict[str, tuple[type, float, float]] = {
    "epochs": (int, 1, 10_000),
    "batch_size": (int, 1, 65_536),
    "learning_rate": (float, 1e-9, 1e3),
    "head_learning_rate": (float, 0, 1e3),
    "head_factor": (float, 0, 1e3),
    "layer_decay": (float, 0, 1),
    "warmup": (float, 0, 1),
    "weight_decay": (float, 0, 1e3),
    "l2_sp": (float, 0, 1e3),
    "label_smoothing": (float, 0, 0.99),
    "dropout": (float, 0, 0.99),
    "mixup": (float, 0, 100),
    "views": (int, 1, 1000),
    "patience": (int, 1, 10_000),
    "holdout": (float, 0, 0.9),
}


@dataclass(frozen=True)
class Recipe:
    """The settings of one training.

    Attributes:
        name: A key of `RECIPES`.
        stages: What is trained, in order. ``"probe"``: the linear head on the frozen backbone.
            ``"fine_tune"``: then the last part of the backbone together with the head. The recipe
            ``"auto"`` adds it where time and photos say so, see `headstart.training.climb`;
            ``"search"`` with settings that it searches for, see `headstart.training.search`.
        folds: Folds of the cross-validation that chooses the strength of the L2 penalty; fewer
            where a class has fewer photos.
        fine_tune: Settings of that stage; None without it.
    """

    name: str = "probe"
    stages: tuple[str, ...] = ("probe",)
    folds: int = 5
    fine_tune: FineTune | None = None

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain data."""
        plain = {**asdict(self), "stages": list(self.stages)}
        if self.fine_tune is None:
            del plain["fine_tune"]
        return plain

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """The recipe of plain data.

        Raises:
            HeadstartError: An unknown key.
        """
        _check_keys(cls, data, "a recipe")
        stage = data.get("fine_tune")
        if stage is not None:
            _check_keys(FineTune, stage, "fine-tuning")
            data = {**data, "fine_tune": FineTune(**stage)}
        return cls(**{**data, "stages": tuple(data.get("stages", ("probe",)))})


def _check_keys(kind: type[Recipe] | type[FineTune], data: dict[str, Any], what: str) -> None:
    known = [field.name for field in fields(kind)]
    for key in data:
        if key not in known:
            raise HeadstartError(
                f"{key!r} is not a setting of {what}.{did_you_mean(key, known)} "
                f"Known: {', '.join(known)}."
            )


RECIPES: dict[str, Recipe] = {
    "auto": Recipe("auto"),
    "probe": Recipe(),
    "search": Recipe("search"),
    "tune": Recipe("tune", ("probe", "fine_tune"), fine_tune=FineTune()),
}


def get_recipe(name: str) -> Recipe:
    """The recipe of a name.

    >>> get_recipe("probe").stages
    ('probe',)

    Raises:
        HeadstartError: Unknown name.
    """
    if name not in RECIPES:
        raise HeadstartError(
            f"{name!r} is not a known recipe.{did_you_mean(name, RECIPES)} "
            f"Known: {', '.join(RECIPES)}."
        )
    return RECIPES[name]


def read_views(text: str | None) -> int | str | None:
    """The setting ``views`` of a text; None of none.

    >>> read_views("6"), read_views("live")
    (6, 'live')
    """
    return int(text) if text and text.isascii() and text.isdigit() else text


def choose_recipe(recipe: str | Recipe, **settings: Any) -> Recipe:
    """The recipe of a name or as given, with other settings of fine-tuning.

    Args:
        recipe: A name, or a recipe.
        settings: Of `FineTune`; None leaves a setting as it is. A recipe without that stage gets
            it when any is given.

    Raises:
        HeadstartError: Unknown name or setting, a value out of its range, or settings of what the
            recipe ``"search"`` looks for.

    >>> choose_recipe("probe", unfreeze="block5").fine_tune.unfreeze
    'block5'
    >>> choose_recipe("probe", unfreeze=None).stages
    ('probe',)
    """
    found = recipe if isinstance(recipe, Recipe) else get_recipe(recipe)
    changes = {name: value for name, value in settings.items() if value is not None}
    if not changes:
        return found
    _check_keys(FineTune, changes, "fine-tuning")
    if found.name == "search":
        raise HeadstartError(
            f"The recipe search looks for the settings of fine-tuning by itself. Leave out "
            f'{", ".join(changes)}, or take the recipe "tune".'
        )
    stage = replace(found.fine_tune or FineTune(), **changes)
    name = "tune" if found.name in ("auto", "probe") else found.name
    return replace(found, name=name, stages=("probe", "fine_tune"), fine_tune=stage)
