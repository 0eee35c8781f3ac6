"""scikit-learn's habits without scikit-learn, which who only predicts need not have."""

from __future__ import annotations

import inspect
from typing import Any, Self

from headstart.task import REGRESSION


class Parameters:
    """What scikit-learn expects of a classifier: parameters by name, tags, fitted or not."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> Self:
        """Change the constructor's arguments; returns self.

        Raises:
            ValueError: An unknown name.
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(
                    f"{name!r} is not a parameter; known: {', '.join(self.get_params())}"
                )
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        is_number = getattr(self, "task", "") == REGRESSION.name
        return Tags(
            estimator_type="regressor" if is_number else "classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=None if is_number else ClassifierTags(),
            regressor_tags=RegressorTags() if is_number else None,
            input_tags=InputTags(two_d_array=False),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return getattr(self, "_bundle", None) is not None
