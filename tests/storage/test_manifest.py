"""The manifest: typed, it comes back, and what is damaged is refused with the field's name."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.run_folders import FEATURES, images_for, manifest_for

from opponent import Preprocessing, Run, RunError
from opponent.core.box import Box
from opponent.storage.manifest import versions
from opponent.storage.run_writer import begin_run


def test_the_manifest_comes_back(run: Run) -> None:
    manifest = manifest_for(5)
    assert Run(run.folder).manifest == manifest
    assert json.loads(manifest.to_json())["format"] == 3
    assert run.features == FEATURES
    assert run.preprocessing == Preprocessing(size=(8, 9), mean=(0.5,) * 3, std=(1.0,) * 3)
    assert run.through_window(FEATURES[0]) == Box(top=0, left=1, height=2, width=3)
    assert run.receptive_field(FEATURES[1]) == Box(top=0, left=0, height=3, width=3)


def test_versions_name_what_numbers_depend_on() -> None:
    found = versions()
    assert set(found) == {"opponent", "python", "torch", "numpy", "pillow"}
    assert found["numpy"] == np.__version__
    assert all(value.count(".") >= 1 for value in found.values())


# Damage


@given(share=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_a_truncated_manifest_is_told(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    folder = tmp_path_factory.mktemp("run")
    text = manifest_for(5).to_json().rstrip()
    (folder / "manifest.json").write_text(text[: int(share * (len(text) - 1))])
    with pytest.raises(RunError, match=r"manifest\.json is damaged \(.*\); delete .* scan again"):
        Run(folder)
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        begin_run(folder, manifest_for(5), images_for(5))


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"{}", b'{"format": 3}', b'{"format": 3, "new": 2}', b"\xff\xfe"]
)
def test_a_manifest_of_another_form_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunError, match=r"manifest\.json is damaged|has format None"):
        Run(tmp_path)


def test_a_manifest_of_another_version_is_told(run: Run) -> None:
    path = run.folder / "manifest.json"
    path.write_text(path.read_text().replace('"format": 3', '"format": 9'))
    with pytest.raises(RunError, match=r"has format 9, this version .* reads format 3; scan again"):
        Run(run.folder)
