"""Observers, by hand."""

import numpy as np
import pytest
from tests.support.study import small_study

from opponent import load
from opponent.study.design.study import Study
from opponent.study.simulate.observers import Chance, Similarity, embed


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return small_study(tmp_path_factory.mktemp("observers") / "s", layers=("a",))


def test_likeness_by_hand() -> None:
    """Two examples along x; choices along x, along y and against x."""
    vectors = {"e": (1.0, 0.0), "f": (1.0, 0.1), "a": (0.9, 0.0), "b": (0.0, 1.0), "c": (-1.0, 0.0)}
    seen = {id: (np.array(x), np.array(x)) for id, x in vectors.items()}
    rng = np.random.default_rng(0)
    sure = Similarity(embeddings=seen, temperature=0.0)
    assert sure.answer("", ("e", "f"), ("b", "c", "a"), rng) == ("a", "c")
    unsure = Similarity(embeddings=seen, temperature=100.0)
    answers = {unsure.answer("", ("e", "f"), ("b", "c", "a"), rng) for _ in range(200)}
    assert len(answers) == 6, "at a high temperature any pair of choices"


def test_guesses_are_even() -> None:
    rng = np.random.default_rng(0)
    choices = tuple("abcdefghi")
    pairs = [Chance().answer("", (), choices, rng) for _ in range(900)]
    assert all(first != second for first, second in pairs)
    for place in (0, 1):
        counts = [sum(pair[place] == x for pair in pairs) for x in choices]
        assert max(abs(count - 100) for count in counts) < 47, "5 sd of 900 at 1/9"


def test_pictures_are_seen_as_looks_and_content(study: Study) -> None:
    ids = sorted(study.stimuli)[:3]
    network = load()
    pictures = {id: study.stimulus(id).read_bytes() for id in ids}
    calls: list[tuple[int, int]] = []
    embeddings = embed(
        pictures, network, "mixed3a", lambda _, done, total: calls.append((done, total))
    )
    assert list(embeddings) == ids
    assert embeddings[ids[0]][0].shape == (6 * 6 * 3,)
    assert embeddings[ids[0]][1].shape == (network.layer("mixed3a").shape[0],)
    assert calls == [(3, 3)]
