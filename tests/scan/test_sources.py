"""Scans of images that are no files: from a source of the user's own, and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.extensions import InMemory, Workers, noise_source
from tests.support.scans import SIZE, Branched, files, two_convolutions

from opponent import Network, Run, RunError, Unreadable, attribute, load, open_images, scan_images
from opponent.images.loader import load_images
from opponent.models.preprocessing import Preprocessing

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"batch_size": 2, "shard_size": 3}


@pytest.mark.parametrize("executor", [None, Workers()])
def test_a_scan_of_a_source_and_back(executor: Workers | None, tmp_path: Path) -> None:
    network, source = two_convolutions(), noise_source(7)
    run = scan_images(
        network, source, ["two:3", "two:0"], "relu", out=tmp_path / "run", executor=executor,
        **SIZES,
    )  # fmt: skip
    readable = [id for id in source.ids() if id != "class/3"]
    assert run.columns(run.features[0]).images == tuple(readable)
    assert run.unreadable() == {"class/3": run.unreadable()["class/3"]}
    assert "it is no picture" in run.unreadable()["class/3"]
    assert run.manifest.images.source == "in memory"
    assert run.manifest.images.count == 7
    # Row by row what `attribute` gives of the arrays.
    for row, id in enumerate(readable):
        one = attribute(network, InMemory({id: source.arrays[id]}), "two:3", "relu")
        assert one.images == (id,)
        np.testing.assert_allclose(run.columns(run.features[0]).l1[row], one.l1[0], rtol=1e-4)
    # The numbers can be read without the source, the images cannot.
    alone = Run(run.folder)
    assert alone.columns("two:0").images == tuple(readable)
    assert [entry.id for entry in alone.images] == source.ids()
    fit = network.preprocessing.fit
    with pytest.raises(Unreadable, match=r"class/0 cannot be read: .*source was not handed over"):
        next(load_images(alone.images.entries, fit))
    again = Run(run.folder, images=source)
    assert again.images == run.images
    first = next(load_images(again.images.entries, fit))
    np.testing.assert_array_equal(first, next(load_images(open_images(source).entries, fit)))
    # With the source it goes on, to the same bytes.
    before = files(tmp_path / "run")
    again.shard(1).unlink()
    scan_images(
        network, source, ["two:3", "two:0"], "relu", out=tmp_path / "run", executor=executor,
        **SIZES,
    )  # fmt: skip
    assert files(tmp_path / "run") == before


def test_with_and_without_an_executor_the_bytes_are_the_same(tmp_path: Path) -> None:
    network, source = two_convolutions(), noise_source(10)
    for name, executor in (("alone", None), ("spread", Workers(3))):
        scan_images(
            network, source, "two:3", "relu", out=tmp_path / name, executor=executor,
            rule="integrated-mean/2", **SIZES,
        )  # fmt: skip
    assert files(tmp_path / "alone") == files(tmp_path / "spread")


def test_another_source_is_refused(tmp_path: Path) -> None:
    network = two_convolutions()
    run = scan_images(network, noise_source(5), "two:3", "relu", out=tmp_path / "run", **SIZES)
    with pytest.raises(RunError, match=r"scanned with other images than 'in memory' holds; hand"):
        Run(run.folder, images=noise_source(4))
    with pytest.raises(RunError, match=r"images\.count was 5, is 4"):
        scan_images(network, noise_source(4), "two:3", "relu", out=tmp_path / "run", **SIZES)


def test_a_module_is_scanned_as_it_is(tmp_path: Path) -> None:
    """At the size that networks have where nothing else is said, and left as it was."""
    module, source = Branched().train(), noise_source(3)
    module.head.weight.requires_grad_(False)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    run = scan_images(module, source, "mixed:1", "early", out=tmp_path / "run")
    network = load(Branched())
    expected = attribute(network, InMemory({x: source.arrays[x] for x in run.columns().images}),
                         "mixed:1", "early")  # fmt: skip
    np.testing.assert_allclose(run.columns().l1, expected.l1, rtol=1e-4)
    assert run.manifest.network.name == "Branched"
    assert run.preprocessing == Preprocessing()
    assert all(part.training for part in module.modules())
    assert [p.requires_grad for p in module.parameters()].count(False) == 1
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    # A network around the same module, prepared otherwise, is another scan.
    other = Network(module, preprocessing=Preprocessing(size=SIZE), name="Branched")
    with pytest.raises(RunError, match=r"network\.preprocessing was"):
        scan_images(other, source, "mixed:1", "early", out=tmp_path / "run")
