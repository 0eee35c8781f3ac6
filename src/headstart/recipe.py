"""What training does, as a frozen record that is printed, stored in the bundle and read back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from headstart.errors import HeadstartError, did_you_mean


@dataclass(frozen=True)
class Recipe:
    """The settings of one training.

    Attributes:
        name: A key of `RECIPES`.
        stages: What is trained, in order. ``"probe"``: the linear head on the frozen backbone.
        folds: Folds of the cross-validation that chooses the strength of the L2 penalty; fewer
            where a class has fewer photos.
    """

    name: str = "probe"
    stages: tuple[str, ...] = ("probe",)
    folds: int = 5

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain data."""
        return {**asdict(self), "stages": list(self.stages)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """The recipe of plain data.

        Raises:
            HeadstartError: An unknown key.
        """
        known = [field.name for field in fields(cls)]
        for key in data:
            if key not in known:
                raise HeadstartError(
                    f"{key!r} is not a setting of a recipe.{did_you_mean(key, known)} "
                    f"Known: {', '.join(known)}."
                )
        return cls(**{**data, "stages": tuple(data.get("stages", ("probe",)))})


RECIPES: dict[str, Recipe] = {"probe": Recipe()}


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
