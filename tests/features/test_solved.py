"""Answers that are kept: equal to the bit, not taken for another question, nor damaged."""

import numpy as np
import pytest

from headstart.errors import CacheError
from headstart.features import solved
from headstart.features.connection import shards_folder
from headstart.features.solved import solve_once

NAN = float("nan")
ANSWER = [
    np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    np.array([1e-300, 1 / 3]),
    np.empty((0, 0), np.float32),
    np.full((9000, 3), NAN, np.float32),
    np.array([np.inf, -np.inf, NAN]),
]


class Solver:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return ANSWER


@pytest.fixture
def solver(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    return Solver()


def is_answer(arrays):
    return all(
        found.dtype == wanted.dtype and np.array_equal(found, wanted, equal_nan=True)
        for found, wanted in zip(arrays, ANSWER, strict=True)
    )


def test_it_is_solved_once_and_equal_to_the_bit(solver):
    assert is_answer(solve_once(["a", np.arange(3)], solver))
    assert is_answer(solve_once(["a", np.arange(3)], solver))
    assert solver.calls == 1


@pytest.mark.parametrize(
    "other",
    [
        ["b", np.arange(3)],
        ["a", np.arange(4)],
        ["a", np.arange(3, dtype=np.float32)],
        ["a", np.arange(3)[None]],
        ["a", np.array([0, 2, 1])],
        ["a", np.arange(3), 1],
    ],
)
def test_another_question_is_solved_anew(solver, other):
    solve_once(["a", np.arange(3)], solver)
    solve_once(other, solver)
    assert solver.calls == 2


def test_another_solver_is_asked_anew(solver, monkeypatch):
    solve_once(["a"], solver)
    monkeypatch.setattr(solved, "_SOLVER_VERSION", 2)
    solve_once(["a"], solver)
    assert solver.calls == 2


def test_what_was_damaged_is_solved_again(solver):
    solve_once(["a"], solver)
    (shard,) = shards_folder(None).glob("*.npy")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert is_answer(solve_once(["a"], solver))
    assert solver.calls == 2
    assert is_answer(solve_once(["a"], solver))
    assert solver.calls == 2


def test_without_a_cache_it_is_only_slower(solver, monkeypatch):
    def refuse(space):
        raise CacheError("The disk is full.")

    monkeypatch.setattr(solved, "ActivationCache", refuse)
    assert is_answer(solve_once(["a"], solver))
    assert is_answer(solve_once(["a"], solver))
    assert solver.calls == 2


def test_numbers_in_another_order_are_another_question(solver):
    solve_once(["a", 1, 11], solver)
    solve_once(["a", 11, 1], solver)
    assert solver.calls == 2


def test_a_limit_of_nothing_keeps_nothing(solver, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE_BYTES", "0")
    solve_once(["a"], solver)
    assert not list(shards_folder(None).glob("*.npy"))


def test_the_cache_stays_within_its_limit(solver, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE_BYTES", "200KB")
    for number in range(4):
        solve_once(["a", number], solver)
    assert 0 < sum(path.stat().st_size for path in shards_folder(None).glob("*.npy")) <= 200_000


def test_what_is_large_is_not_kept(solver, monkeypatch):
    monkeypatch.setattr(solved, "_MOST_BYTES", 1000)
    assert is_answer(solve_once(["a"], solver))
    assert not list(shards_folder(None).glob("*.npy"))
