"""Scans through a dictionary: columns are those of attributions."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.dictionaries import made
from tests.support.scans import branched, files, paint_shapes

import opponent
from opponent import Dictionary, Network, Run, RunError
from opponent.images.loader import load_images
from opponent.scan import shard
from opponent.scan.reopen import dictionary_of

SIZES = {"batch_size": 3, "shard_size": 4}
FEATURES = ["mixed:1", "mixed:4"]


@pytest.fixture(scope="module")
def small() -> Network:
    return branched()


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    return made("topk", 9, 4, layer="early").to(torch.zeros(1))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_shapes(tmp_path_factory.mktemp("dictionary") / "in", 24)


@pytest.fixture(scope="module")
def run(small: Network, pictures: Path, dictionary: Dictionary) -> Run:
    return opponent.scan_images(
        small, pictures, FEATURES, "early", out=pictures.parent / "run", dictionary=dictionary,
        **SIZES,
    )  # type: ignore[arg-type]  # fmt: skip


def test_columns_are_those_of_the_attribution(
    run: Run, small: Network, pictures: Path, dictionary: Dictionary
) -> None:
    for name in FEATURES:
        columns = run.columns(name)
        found = opponent.attribute(small, pictures, name, "early", dictionary=dictionary)
        assert columns.images == found.images
        for each in ("activation", "excitation", "inhibition", "l1", "l2", "bias", "rest"):
            expected = getattr(found, each).numpy()
            np.testing.assert_allclose(getattr(columns, each), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(run.channels(name), found.channels, rtol=1e-3, atol=1e-5)
        assert run.channels(name).shape == (24, 9)
        plain = opponent.attribute(small, pictures, name, "early")
        total = (plain.excitation - plain.inhibition).numpy()
        np.testing.assert_allclose(columns.total, total, rtol=1e-3, atol=1e-4)


def test_r_is_that_of_all_terms(run: Run, small: Network, pictures: Path) -> None:
    plain = opponent.scan_images(
        small, pictures, FEATURES, "early", out=pictures.parent / "plain", **SIZES
    )  # type: ignore[arg-type]
    for name in FEATURES:
        with_latents, with_channels = run.columns(name), plain.columns(name)
        assert with_channels.bias is None
        assert with_latents.completeness == pytest.approx(with_channels.completeness, abs=1e-4)


def test_the_identity_gives_the_columns_of_channels(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    plain = opponent.scan_images(
        small, pictures, FEATURES, "early", out=tmp_path / "plain", **SIZES
    )  # type: ignore[arg-type]
    same = opponent.scan_images(
        small, pictures, FEATURES, "early", out=tmp_path / "same",
        dictionary=Dictionary.identity(4), **SIZES,
    )  # type: ignore[arg-type]  # fmt: skip
    for name in FEATURES:
        one, other = plain.columns(name), same.columns(name)
        for each in (
            "activation", "excitation", "inhibition", "l1", "l2", "excitation_map", "inhibition_map"
        ):  # fmt: skip
            np.testing.assert_array_equal(getattr(one, each), getattr(other, each))
        np.testing.assert_array_equal(plain.channels(name), same.channels(name))
    assert [plain.exemplars(k) for k in range(4)] == [same.exemplars(k) for k in range(4)]


def test_few_images_go_together_where_there_are_many_latents_and_features(
    small: Network, pictures: Path, run: Run, dictionary: Dictionary, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen = list[int]()
    whole = shard.attribute_each

    def noting(network: Network, inputs: torch.Tensor, *given: Any, **more: Any) -> Any:
        seen.append(len(inputs))
        return whole(network, inputs, *given, **more)

    monkeypatch.setattr(shard, "attribute_each", noting)
    monkeypatch.setattr(shard, "images_at_once", lambda *_: 2 * len(FEATURES) + 1)
    parted = opponent.scan_images(
        small, pictures, FEATURES, "early", out=tmp_path, dictionary=dictionary, **SIZES
    )  # type: ignore[arg-type]
    assert max(seen) == 2
    assert parted.columns(FEATURES[0]).images == run.columns(FEATURES[0]).images
    for name in FEATURES:
        one, other = parted.columns(name), run.columns(name)
        for each in ("activation", "excitation", "inhibition", "bias", "rest"):
            np.testing.assert_allclose(getattr(one, each), getattr(other, each), atol=1e-5)


def test_latents_are_shown_by_their_own_images(run: Run, dictionary: Dictionary) -> None:
    pixels = np.stack([*load_images(run.images.entries, run.preprocessing.fit)])
    network = branched()
    codes = dictionary.encode(network.activations(network.inputs(pixels), "early")["early"])
    for latent in range(9):
        found = run.exemplars(latent, 3)
        for exemplar in found:
            number = [entry.id for entry in run.images].index(exemplar.image)
            value = float(codes[number, latent, exemplar.row, exemplar.column])
            assert value == pytest.approx(exemplar.activation, rel=1e-4)
    answer = opponent.who(run, feature="mixed:1", network=network, crops=0)
    assert answer.exciting[0].name.startswith("early/latent:")


def test_an_interrupted_scan_goes_on(
    small: Network, pictures: Path, run: Run, dictionary: Dictionary, tmp_path: Path
) -> None:
    def stop(_what: str, done: int, _total: int) -> None:
        if done > 8:
            raise KeyboardInterrupt

    file = tmp_path / "d.safetensors"
    dictionary.save(file)
    for progress in (stop, None):
        try:
            opponent.scan_images(
                small, pictures, FEATURES, "early", out=tmp_path / "out", dictionary=file,
                progress=progress, **SIZES,
            )  # type: ignore[arg-type]  # fmt: skip
        except KeyboardInterrupt:
            assert Run(tmp_path / "out").missing()
    assert files(tmp_path / "out") == files(Path(run.folder))
    assert dictionary_of(Run(tmp_path / "out")).sha256() == dictionary.sha256()  # type: ignore[union-attr]


def test_another_dictionary_is_another_scan(
    small: Network, pictures: Path, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    other = made("topk", 9, 4, 5, layer="early").to(torch.zeros(1))
    for given in (other, None):
        with pytest.raises(RunError, match="holds another scan"):
            opponent.scan_images(
                small, pictures, FEATURES, "early", out=folder, dictionary=given, **SIZES
            )  # type: ignore[arg-type]
    other.save(folder / "dictionary.safetensors")
    (folder / "scan" / "000001.parquet").unlink()
    with pytest.raises(RunError, match=r"dictionary\.safetensors is damaged \(it is another"):
        dictionary_of(Run(folder))


def test_what_does_not_fit_is_refused_before_the_first_image(
    small: Network, pictures: Path, dictionary: Dictionary, tmp_path: Path
) -> None:
    def scan(features: object, given: Dictionary, **other: object) -> object:
        return opponent.scan_images(
            small, pictures, features, "early", out=tmp_path / "no", dictionary=given, **other
        )  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="of 5 channels, and 'early' has 4"):
        scan(FEATURES, made("relu", 9, 5))
    for features, other in (("mixed:*", {}), (FEATURES, {"rule": "integrated-zero/4"})):
        with pytest.raises(ValueError, match="takes features by name, and the rule 'gradient'"):
            scan(features, dictionary, **other)
    assert not (tmp_path / "no").exists()
