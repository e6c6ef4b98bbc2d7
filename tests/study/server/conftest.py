"""A small study, and a store of its answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.study import small_study

from opponent.study.design.study import Study
from opponent.study.server.store import Store


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", features=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "answers.sqlite3", create=True) as store:
        yield store
