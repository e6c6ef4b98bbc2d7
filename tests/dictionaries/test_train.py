"""Dictionaries that are learnt: planted directions come out, and interruptions change nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from opponent import Dictionary, Network, Preprocessing, RunError, open_images, silent
from opponent.dictionaries.learnt import TrainingSettings
from opponent.dictionaries.stream import Hidden
from opponent.dictionaries.train import (
    _Trainer,
    learn_and_save_dictionary,
    learn_dictionary,
    learn_from_vectors,
)

COLOURS = np.array([[1, 0.1, 0.1], [0.1, 1, 0.1], [0.1, 0.1, 1], [1, 1, 0.1], [0.1, 1, 1]])
QUICK = TrainingSettings(latents=8, active=1, steps=300, batch=256, rate=5e-3)


class Coloured:
    """Images whose pixels each have one of five colours, lighter or darker."""

    name = "coloured"

    def __init__(self, count: int = 40) -> None:
        self.count = count

    def ids(self) -> list[str]:
        return [str(i) for i in range(self.count)]

    def image(self, id: str) -> np.ndarray:
        random = np.random.default_rng(int(id))
        which = random.integers(5, size=(12, 10))
        light = random.uniform(0.2, 1, size=(12, 10, 1))
        return np.array(255 * COLOURS[which] * light, np.uint8)


def pixels() -> Network:
    """A network whose first layer gives the pixels."""
    with torch.random.fork_rng(devices=[]):
        module = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 3))
    module[0].weight = nn.Parameter(torch.eye(3).view(3, 3, 1, 1))
    preparation = Preprocessing(size=(12, 10), mean=(0.0,) * 3, std=(1.0,) * 3)
    return Network(module, preprocessing=preparation, name="pixels")


def test_planted_directions_come_out() -> None:
    learnt = learn_dictionary(pixels(), Coloured(), "1", settings=QUICK)
    assert learnt.left < 0.1
    assert learnt.curve[-1][1] < 0.25 * learnt.curve[0][1]
    dictionary = learnt.dictionary
    assert (dictionary.layer, dictionary.kind, dictionary.active) == ("1", "topk", 1)
    assert dictionary.decoder.norm(dim=1) == pytest.approx(1, abs=1e-5)
    assert dictionary.provenance["left"] == learnt.left
    # Of a bias of its own, what is planted lies in the span of the bias and some latents.
    hidden = torch.from_numpy(COLOURS).float()
    codes = dictionary.encode(hidden.T[None, :, :, None].contiguous())
    back = dictionary.decode(codes) + dictionary.bias.view(-1, 1, 1)
    error = (back[0, :, :, 0].T - hidden).norm(dim=1) / hidden.norm(dim=1)
    assert float(error.max()) < 0.3


def test_what_is_left_is_that_of_kept_out_images() -> None:
    images, settings = Coloured(), QUICK
    learnt = learn_dictionary(pixels(), images, "1", settings=settings)
    order = np.random.default_rng(settings.seed).permutation(40)
    vectors = np.concatenate(
        [images.image(str(i)).reshape(-1, 3).astype(np.float64) / 255 for i in sorted(order[:4])]
    )
    maps = torch.from_numpy(vectors).float().T[None, :, :, None].contiguous()
    codes = learnt.dictionary.encode(maps)[0, :, :, 0].T.double().numpy()
    decoder, bias = learnt.dictionary.decoder.double().numpy(), learnt.dictionary.bias.numpy()
    rest, spread = 0.0, 0.0
    for vector, code in zip(vectors, codes, strict=True):
        rest += ((vector - bias - code @ decoder) ** 2).sum()
        spread += ((vector - vectors.mean(0)) ** 2).sum()
    assert learnt.left == pytest.approx(rest / spread, rel=1e-4)
    assert learnt.frequency == pytest.approx((codes > 0).mean(0), abs=1e-12)
    assert learnt.dead == int((learnt.frequency == 0).sum())


def test_the_loss_is_that_of_the_definition() -> None:
    settings = TrainingSettings(latents=6, active=2, steps=10, batch=4)
    trainer = _Trainer(Hidden(pixels(), open_images(Coloured()), "1"), "1", settings, None, silent)
    vectors = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    trainer._begin(vectors)
    trainer.silent[[0, 3, 4]] = 1000.0
    batch = vectors / trainer.scale
    rest, codes, loss = trainer._loss(batch)
    learnt = {name: x.detach().double().numpy() for name, x in trainer.parameters.items()}
    total = 0.0
    for number, vector in enumerate(batch.double().numpy()):
        centred = vector - learnt["bias"]
        heard = [centred @ row + b for row, b in zip(
            learnt["encoder"], learnt["encoder_bias"], strict=True
        )]  # fmt: skip
        first = sorted(range(6), key=lambda j: -heard[j])[:2]
        code = [max(0.0, heard[j]) if j in first else 0.0 for j in range(6)]
        left = centred - sum(code[j] * learnt["decoder"][j] for j in range(6))
        dead = sum(max(0.0, heard[j]) * learnt["decoder"][j] for j in (0, 3, 4))
        total += (left**2).sum() + ((left - dead) ** 2).sum() / 32
        np.testing.assert_allclose(codes[number], code, atol=1e-5)
        np.testing.assert_allclose(rest[number], left, atol=1e-5)
    assert float(loss.detach()) == pytest.approx(total / 5, rel=1e-5)


def test_random_latents_stay_what_they_are() -> None:
    learnt = learn_dictionary(pixels(), Coloured(), "1", settings=QUICK)
    random = learn_dictionary(pixels(), Coloured(), "1", settings=replace(QUICK, random=True))
    generator = torch.Generator().manual_seed(QUICK.seed)
    begun = torch.randn(QUICK.latents, 3, generator=generator)
    begun /= begun.norm(dim=1, keepdim=True)
    torch.testing.assert_close(random.dictionary.decoder, begun)
    assert random.dictionary.encoder is not None
    assert not torch.allclose(random.dictionary.encoder, begun)
    assert random.left > 2 * learnt.left
    assert (learnt.dictionary.title, random.dictionary.title) == ("topk 8", "random 8")


@pytest.mark.parametrize("random", [False, True])
def test_an_interruption_changes_no_byte(random: bool, tmp_path: Path) -> None:
    settings = TrainingSettings(latents=8, active=2, steps=60, batch=100, random=random)
    images = Coloured(600)  # three blocks a turn

    def stop(what: str, done: int, _total: int) -> None:
        if what == "learning" and done >= 40:
            raise KeyboardInterrupt

    file = tmp_path / "d.safetensors"
    with pytest.raises(KeyboardInterrupt):
        learn_and_save_dictionary(pixels(), images, "1", file, settings=settings, progress=stop)
    assert not file.exists()
    seen = list[int]()
    learn_and_save_dictionary(
        pixels(), images, "1", file, settings=settings,
        progress=lambda what, done, _: seen.append(done) if what == "learning" else None,
    )  # fmt: skip
    learn_and_save_dictionary(pixels(), images, "1", tmp_path / "w.safetensors", settings=settings)
    assert file.read_bytes() == (tmp_path / "w.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.safetensors", "w.safetensors"]
    assert Dictionary.load(file).latents == 8


def test_changed_images_and_networks_are_not_mixed(tmp_path: Path) -> None:
    class Other(Coloured):
        def image(self, id: str) -> np.ndarray:
            return 255 - super().image(id) if id == "7" else super().image(id)

    settings = TrainingSettings(latents=8, active=2, steps=4, batch=100)

    def learn(network: Network, images: Coloured) -> object:
        return learn_dictionary(network, images, "1", settings=settings, checkpoints=tmp_path)

    learn(pixels(), Coloured())
    learn(pixels(), Coloured())
    with pytest.raises(RunError, match="'7' changed since the scan"):
        learn(pixels(), Other())
    changed = pixels()
    changed.module[1] = nn.Hardtanh(0.0, 0.3)  # type: ignore[operator]
    other = Network(changed.module, preprocessing=changed.preprocessing, name="pixels")
    with pytest.raises(RunError, match="was the code of pixels changed"):
        learn(other, Coloured())


def test_what_another_question_kept_is_not_used(tmp_path: Path) -> None:
    small = TrainingSettings(latents=8, active=2, steps=4, batch=100)
    learn_dictionary(pixels(), Coloured(), "1", settings=small, checkpoints=tmp_path)
    other = TrainingSettings(latents=9, active=2, steps=4, batch=100)
    with pytest.raises(RunError, match=r"holds results of another question .*settings"):
        learn_dictionary(pixels(), Coloured(), "1", settings=other, checkpoints=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latents": 0}, "latents must be positive"),
        ({"latents": 4, "active": 5}, "5 of 4 latents cannot be active"),
        ({"kept_out": 1.0}, "kept_out lies between"),
        ({"rate": 0.0}, "rate above 0"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**settings)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 images give 120 vectors of '1' .* for 4,096 latents"):
        learn_dictionary(pixels(), Coloured(2), "1")
    with pytest.raises(ValueError, match=r"unknown layer|no layer"):
        learn_dictionary(pixels(), Coloured(), "nowhere", settings=QUICK)
    with pytest.raises(ValueError, match=r"ending \.safetensors"):
        learn_and_save_dictionary(pixels(), Coloured(), "1", tmp_path / "d.pt", settings=QUICK)


def _planted(count: int = 3000) -> np.ndarray:
    random = np.random.default_rng(0)
    light = random.uniform(0.2, 1, size=(count, 1))
    return COLOURS[random.integers(5, size=count)] * light


def test_vectors_without_a_network() -> None:
    vectors = _planted()
    learnt = learn_from_vectors(vectors, settings=QUICK, layer="hidden")
    assert learnt.left < 0.1
    assert learnt.dictionary.layer == "hidden"
    assert learnt.dictionary.provenance["vectors"] == 3000
    order = np.random.default_rng(QUICK.seed).permutation(3000)
    kept = vectors[np.sort(order[:300])].astype(np.float32).astype(np.float64)
    d = learnt.dictionary
    maps = torch.from_numpy(kept).T[None, :, :, None].contiguous()
    codes = d.encode(maps)[0, :, :, 0].T.numpy()
    rest = kept - d.bias.numpy() - codes @ d.decoder.double().numpy()
    spread = ((kept - kept.mean(0)) ** 2).sum()
    assert learnt.left == pytest.approx((rest**2).sum() / spread, rel=1e-4)
    again = learn_from_vectors(vectors, settings=QUICK, layer="hidden")
    assert again.dictionary.sha256() == d.sha256()


def test_vectors_that_do_not_do() -> None:
    with pytest.raises(ValueError, match="8 vectors are too few for 8 latents"):
        learn_from_vectors(_planted(8), settings=QUICK)
    vectors = _planted(100)
    vectors[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        learn_from_vectors(vectors, settings=QUICK)
