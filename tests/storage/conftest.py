"""A run that several tests of storage read."""

from pathlib import Path

import numpy as np
import pytest
from tests.support.run_folders import batches_for, images_for, manifest_for

from opponent import Run
from opponent.storage.run_writer import begin_run, finish_run, write_shard


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Five images in three shards, '3.png' unreadable."""
    run = begin_run(tmp_path / "run", manifest_for(5), images_for(5))
    generator = np.random.default_rng(0)
    for shard in range(3):
        ids = [f"{i}.png" for i in range(5)[shard * 2 : shard * 2 + 2] if i != 3]
        bad = {"3.png": "truncated: 7 of 9 bytes, “so” it is"} if shard == 1 else {}
        write_shard(run, shard, ids, batches_for(len(ids), generator), bad)
    finish_run(run)
    return run
