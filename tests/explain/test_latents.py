"""Explanations by latents: who, why, crops, visualisations, silencing; the identity is channels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.dictionaries import made
from tests.support.scans import branched, paint_shapes
from tests.support.synthesis import QUICK
from torch import Tensor

import opponent
from opponent import Dictionary, Network, Run, RunError, Why
from opponent.explain.channels import exemplar_tiles
from opponent.explain.drivers import Drivers
from opponent.explain.silencing import silence, silence_check
from opponent.geometry.receptive_field import box_of, receptive_fields
from opponent.reports.explanations import write_why

pytestmark = pytest.mark.usefixtures("one_thread")
FEATURES = ["mixed:1", "mixed:4"]


@pytest.fixture(scope="module")
def network() -> Network:
    return branched()


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    return made("topk", 9, 4, layer="early").to(torch.zeros(1))


@pytest.fixture(scope="module")
def runs(
    network: Network, dictionary: Dictionary, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("latents")
    pictures = paint_shapes(folder / "in", 24)
    given = {"channels": None, "identity": Dictionary.identity(4), "latents": dictionary}
    return {
        name: opponent.scan_images(
            network, pictures, FEATURES, "early", out=folder / name, dictionary=each,
            batch_size=5,
        )
        for name, each in given.items()
    }  # fmt: skip


def image_of(run: Run, number: int = 3) -> Path:
    path = run.images[number].path
    assert path is not None
    return Path(str(path))


def as_channels(drivers: Drivers) -> Drivers:
    """The same, with latents called channels."""
    sides = [
        tuple(replace(x, name=x.name.replace("/latent", "")) for x in side)
        for side in (drivers.exciting, drivers.inhibiting)
    ]
    return replace(drivers, exciting=sides[0], inhibiting=sides[1], kind="channel")


def equal(one: Drivers, other: Drivers) -> None:
    for ours, theirs in zip(
        (*one.exciting, *one.inhibiting), (*other.exciting, *other.inhibiting), strict=True
    ):
        plain = {"exemplars": (), "visualisation": None}
        assert replace(ours, **plain) == replace(theirs, **plain)  # type: ignore[arg-type]
        assert len(ours.exemplars) == len(theirs.exemplars) > 0
        for first, second in zip(ours.exemplars, theirs.exemplars, strict=True):
            assert first.caption == second.caption
            np.testing.assert_array_equal(first.image, second.image)
        assert (ours.visualisation is None) == (theirs.visualisation is None)
        if ours.visualisation is not None and theirs.visualisation is not None:
            np.testing.assert_array_equal(ours.visualisation.image, theirs.visualisation.image)


def test_who_by_the_identity_is_who_by_channels(network: Network, runs: dict[str, Run]) -> None:
    channels, identity = (
        opponent.who(runs[name], "mixed:4", network=network, crops=2, visualise=QUICK, channels=3)
        for name in ("channels", "identity")
    )
    assert all(x.name.startswith("early/latent:") for x in identity.exciting)
    equal(channels.drivers, as_channels(identity.drivers))
    assert identity.caption.startswith("latents of early that add most to either side")
    assert dict(identity.drivers.facts()).keys() >= {"tension within single latents"}


def test_a_latent_is_visualised_by_its_decoder(
    network: Network, runs: dict[str, Run], dictionary: Dictionary
) -> None:
    answer = opponent.who(
        runs["latents"], "mixed:4", network=network, crops=0, visualise=QUICK, channels=2
    )
    first = answer.exciting[0]
    vector = dictionary.decoder[first.channel].double()
    own = opponent.Feature.direction("early", vector / vector.norm(), name="own")
    expected = opponent.visualise(network, own, settings=QUICK)
    assert first.visualisation is not None
    folder = runs["latents"].folder / "synthesis"
    [file] = folder.glob(f"early-latent-{first.channel}-*.json")
    found = json.loads(file.read_text())
    assert found["activation"] == pytest.approx(expected.activation[:, 0].tolist(), rel=1e-4)
    assert found["feature"]["name"] == f"latent:{first.channel}"


def test_crops_of_a_latent_hold_what_its_encoder_sees(
    network: Network, runs: dict[str, Run], dictionary: Dictionary
) -> None:
    """More latents than channels: a latent's number is no channel's."""
    run = runs["latents"]
    tiles = exemplar_tiles(run, network, range(9), 2)
    assert any(tiles[latent] for latent in range(4, 9))
    assert dictionary.listens_to(7) == [0, 1, 2, 3]
    fields = receptive_fields(network, "early")
    for latent, shown in tiles.items():
        for tile, exemplar in zip(shown, run.exemplars(latent, 2), strict=True):
            box = box_of(fields[:, :, exemplar.row, exemplar.column])
            assert box is not None
            height, width = tile.image.shape[:2]
            assert height / width == pytest.approx(box.height / box.width)


def test_which_channels_a_latent_listens_to() -> None:
    encoder = torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0]])
    values = {"bias": torch.zeros(3), "encoder_bias": torch.zeros(2)}
    dictionary = Dictionary(decoder=torch.ones(2, 3), encoder=encoder, kind="relu", **values)
    assert [dictionary.listens_to(latent) for latent in range(2)] == [[0, 2], []]
    alone = Dictionary(decoder=encoder, encoder=None, kind="nonnegative", **values)
    assert alone.listens_to(0) == [0, 2]


@pytest.mark.parametrize("against", [None, "mixed:1"])
def test_why_by_the_identity_is_why_by_channels(
    network: Network, runs: dict[str, Run], against: str | None
) -> None:
    channels, identity = (
        opponent.why(
            network, image_of(runs[name]), "mixed:4", "early", run=runs[name], against=against
        )
        for name in ("channels", "identity")
    )
    equal(channels.drivers, as_channels(identity.drivers))
    for name in ("activation", "excitation", "inhibition", "places", "standing"):
        assert getattr(channels, name) == getattr(identity, name)
    assert channels.apart is None
    assert identity.apart == {"dictionary's bias": 0.0, "dictionary's rest": 0.0}


def test_why_by_a_run_names_its_latents(
    network: Network, runs: dict[str, Run], dictionary: Dictionary, tmp_path: Path
) -> None:
    run = runs["latents"]
    answer = opponent.why(network, image_of(run), "mixed:4", "early", run=run)
    result = opponent.attribute(network, image_of(run), "mixed:4", "early", dictionary=dictionary)
    assert answer.excitation == float(result.excitation[0])
    assert result.bias is not None
    assert result.rest is not None
    assert answer.apart == {
        "dictionary's bias": float(result.bias[0]), "dictionary's rest": float(result.rest[0])
    }  # fmt: skip
    assert answer.terms()[1] == ("dictionary's rest", f"{float(result.rest[0]):+.4g}")
    assert answer.terms()[1] in answer.facts()
    assert "early (by its latents) excites it by" in answer.verdict
    assert (
        "dictionary",
        f"{dictionary.title}, SHA-256 {dictionary.sha256()[:12]}",
    ) in answer.facts()
    said = opponent.who(run, "mixed:4", crops=0).dictionary
    assert said is not None
    assert dictionary.sha256()[:12] in said
    columns = run.columns("mixed:4")
    assert answer.standing is not None
    share = np.searchsorted(np.sort(columns.tension), min(answer.excitation, answer.inhibition))
    assert answer.standing["tension"] == pytest.approx(100 * share / 24, abs=100 / 24)
    # Without a run, by a file.
    dictionary.save(tmp_path / "d.safetensors")
    alone = opponent.why(
        network, image_of(run), "mixed:4", "early", dictionary=tmp_path / "d.safetensors"
    )
    equal(answer.drivers, alone.drivers)
    assert alone.standing is None
    for page in ("why.html", "why.png"):
        write_why(alone, tmp_path / page)
    assert "upstream latents that add most" in (tmp_path / "why.html").read_text()


def test_another_dictionary_than_the_runs_is_refused(
    network: Network, runs: dict[str, Run], dictionary: Dictionary
) -> None:
    def ask(name: str, given: Dictionary) -> Why:
        image = image_of(runs[name])
        return opponent.why(network, image, "mixed:4", "early", run=runs[name], dictionary=given)

    assert ask("latents", dictionary).drivers.kind == "latent"
    with pytest.raises(RunError, match="was scanned through no dictionary; leave the dictionary"):
        ask("channels", dictionary)
    with pytest.raises(RunError, match="was scanned through another dictionary"):
        ask("identity", dictionary)


def slow_silence(
    network: Network, inputs: Tensor, dictionary: Dictionary, latent: int, where: Tensor | None
) -> Tensor:
    """Position by position what a latent writes is taken away."""
    before = network.run(inputs, "mixed", "early")
    assert before.through is not None
    hidden, code = before.through.clone(), dictionary.encode(before.through)
    for image, row, column in np.ndindex(len(inputs), *hidden.shape[2:]):
        if where is None or where[image, latent, row, column]:
            for channel in range(hidden.shape[1]):
                written = code[image, latent, row, column] * dictionary.decoder[latent, channel]
                hidden[image, channel, row, column] -= written
    after = network.run(inputs, "mixed", "early", substitute=lambda _: hidden)
    return (after.target - before.target)[:, 4, 6, 5]


def test_a_silenced_latent_takes_away_what_it_writes(
    network: Network, dictionary: Dictionary
) -> None:
    inputs = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    s = opponent.attribute(network, inputs, "mixed:4", "early", dictionary=dictionary).attribution
    for where in (None, s < 0):
        found = silence(
            network, inputs, "mixed:4", "early", range(9), where=where, dictionary=dictionary
        )
        for latent in range(9):
            expected = slow_silence(network, inputs, dictionary, latent, where)
            torch.testing.assert_close(found[latent], expected, rtol=1e-4, atol=1e-6)
        assert found.any()
    # The network is linear from there: silenced where it inhibits, what it inhibits comes back.
    back = (-s).clamp(min=0).sum((2, 3)).T
    torch.testing.assert_close(found, back, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match=r"'early' has 9 latents, 0 to 8; got \[9\]"):
        silence(network, inputs, "mixed:4", "early", [9], dictionary=dictionary)


def test_silencing_by_the_identity_is_silencing_channels(
    network: Network, runs: dict[str, Run]
) -> None:
    checks = []
    for name in ("channels", "identity"):
        answer = opponent.who(runs[name], "mixed:4", crops=0, channels=1)
        assert (answer.excitation + answer.inhibition > 0).all()
        checks.append(silence_check(runs[name], network, answer))
    assert checks[0] == checks[1]


def test_others_at_random_are_latents_that_drive(network: Network, runs: dict[str, Run]) -> None:
    answer = opponent.who(runs["latents"], "mixed:4", crops=0, channels=1, images=["003.png"])
    driving = int(np.count_nonzero(answer.excitation + answer.inhibition))
    tops = {answer.exciting[0].channel, answer.inhibiting[0].channel}
    found = silence_check(runs["latents"], network, answer, random=99)
    assert len(found.exciting.random) == driving - len(tops)
    assert found.inhibition.top == pytest.approx(answer.inhibiting[0].inhibition, rel=1e-3)


def test_what_the_latents_leave_out_is_told(network: Network, runs: dict[str, Run]) -> None:
    run = runs["latents"]
    answers = [opponent.why(network, image_of(run, k), "mixed:4", "early", run=run) for k in (0, 3)]
    for answer in answers:
        left_out = answer.activation - (answer.excitation - answer.inhibition)
        assert abs(left_out) > 0.05 * abs(answer.activation)
        assert f"{left_out:+.3g} comes from what the latents leave out" in answer.verdict
