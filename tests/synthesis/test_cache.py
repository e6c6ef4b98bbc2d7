"""Synthesised images in a run folder: made once, told apart, damaged, gone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.synthesis import QUICK, Call, paint, toy

from opponent import (
    ImageSet,
    Run,
    RunError,
    Transforms,
    accentuate,
    invert,
    scan_images,
    visualise,
)
from opponent.core.side import Side
from opponent.synthesis import cache
from opponent.synthesis.cache import CachedImage, synthesise

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "in").mkdir()
    return scan_images(
        toy(), paint(tmp_path / "in", 3), ["end:1", "end:2"], "relu", out=tmp_path / "run"
    )


def make(run: Run, **changed: Any) -> CachedImage:
    given = {
        "feature": run.features[0],
        "image": "1.png",
        "kind": "inversion",
        "side": Side.EXCITATION,
        "settings": replace(QUICK, steps=3),
    }
    return synthesise(run, toy(), **(given | changed))


KINDS = [("inversion", "1.png"), ("accentuation", "1.png"), ("visualisation", None)]


@pytest.mark.parametrize(("kind", "image"), KINDS)
def test_an_image_is_made_once_and_found_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: str, image: str | None
) -> None:
    calls: list[Call] = []
    first = make(run, kind=kind, image=image, progress=lambda *call: calls.append(call))
    assert calls == [("optimising", step, 3) for step in (1, 2, 3)]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    for name in ("invert", "accentuate", "visualise"):
        monkeypatch.setattr(cache, name, refuse)
    assert make(run, kind=kind, image=image) == first
    # How many are made at once is no difference.
    few = replace(QUICK, steps=3, batch=1)
    assert make(Run(run.folder), kind=kind, image=image, settings=few) == first
    with pytest.raises(AssertionError, match="made again"):
        make(run, kind=kind, image=image, side=Side.INHIBITION)


@pytest.mark.parametrize(("kind", "image"), KINDS)
def test_what_is_kept_is_what_was_made(run: Run, kind: str, image: str | None) -> None:
    made, quick, network = make(run, kind=kind, image=image), replace(QUICK, steps=3), toy()
    entries = ImageSet(source="x", entries=(run.images.find("1.png"),))
    if kind == "visualisation":
        result = visualise(network, run.features[0], settings=quick)
    else:
        do = invert if kind == "inversion" else accentuate
        result = do(network, entries, run.features[0], "relu", side="excitation", settings=quick)
    np.testing.assert_array_equal(made.pixels(), result.rgba()[0])
    assert made.activation == tuple(result.activation[:, 0].tolist())
    assert made.objective == tuple(result.objective[:, 0].tolist())
    assert made.final == result.final[0]
    assert (made.kind, made.side, made.image) == (kind, "excitation", image)
    assert made.path.parent == run.folder / "synthesis"
    assert "end-1-10_8" in made.path.name
    assert kind in made.path.name
    described = json.loads(made.path.with_suffix(".json").read_text(encoding="utf-8"))
    assert described["feature"] == {"layer": "end", "unit": 1, "position": [10, 8]}
    assert described["side"] == "excitation"
    assert described["settings"]["steps"] == 3
    assert described["settings"]["transforms"]["draws"] == 1
    assert described["weights_sha256"] == network.weights_sha256()
    files = {path.name for path in (run.folder / "synthesis").iterdir()}
    assert files == {made.path.name, made.path.with_suffix(".json").name}


def test_all_that_differs_gets_a_file_of_its_own(run: Run) -> None:
    short = replace(QUICK, steps=1)
    asked: list[dict[str, Any]] = [
        {},
        {"side": Side.INHIBITION},
        {"image": "2.png"},
        {"kind": "accentuation"},
        {"kind": "visualisation", "image": None},
        {"feature": run.features[1]},
        *(
            {"settings": replace(short, **change)}
            for change in (
                {"seed": 1},
                {"steps": 2},
                {"rate": 0.06},
                {"power": 2.0},
                {"canvas": (24, 20)},
                {"parameterisation": "pixels"},
                {"transforms": Transforms(draws=1, gaussian=0.1)},
            )
        ),
    ]
    made = [make(run, **({"settings": short} | each)) for each in asked]
    assert len({each.path for each in made}) == len(asked)
    assert len(list((run.folder / "synthesis").iterdir())) == 2 * len(asked)


def test_other_versions_make_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(run)
    monkeypatch.setattr(cache, "versions", lambda: {"torch": "99"})
    assert make(run).path != first.path


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[]", b"null", b'"x"', b"\xff", b'{"kind": "inversion"}']
)
def test_a_damaged_description_is_told(run: Run, content: bytes) -> None:
    path = make(run).path.with_suffix(".json")
    good = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"\.json is damaged .*; delete it, and it is made again"):
        make(run)
    path.unlink()
    make(run)
    assert path.read_bytes() == good


def test_a_picture_that_is_gone_is_made_again(run: Run) -> None:
    made = make(run)
    pixels = made.pixels()
    made.path.unlink()
    np.testing.assert_array_equal(make(run).pixels(), pixels)


def test_an_image_that_is_not_in_the_run_is_refused(run: Run) -> None:
    with pytest.raises(LookupError, match=r"has no image '9\.png'"):
        make(run, image="9.png")
    assert not (run.folder / "synthesis").exists()
