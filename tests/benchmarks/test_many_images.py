"""A scan's memory does not grow with its images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's /proc")
def test_memory_is_flat_after_the_first_thousand_images() -> None:
    words = ["benchmarks.many_images", "--entries", "3000", "--every", "500", "--size", "64"]
    result = subprocess.run(
        [sys.executable, "-m", *words, "--json"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["what"] for record in records] == ["one unit", "all units"]
    for record in records:
        done = [step["done"] for step in record["steps"]]
        assert len(done) == 7
        for count, expected in zip(done, range(0, 3001, 500), strict=True):
            assert expected <= count < expected + 500
        held = [step["bytes"] for step in record["steps"]]
        # Decoded, 2,000 images are 25 MB.
        assert held[-1] - held[2] < 12e6
        assert record["rows"] == (3000 if record["what"] == "one unit" else 12 * 6)
