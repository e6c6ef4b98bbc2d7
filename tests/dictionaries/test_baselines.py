"""k-means and non-negative factors as dictionaries: what they are, and what they leave."""

import numpy as np
import pytest
import torch
from tests.dictionaries.test_train import COLOURS, Coloured, pixels
from torch import nn

from opponent import Network, Preprocessing
from opponent.dictionaries import baselines
from opponent.dictionaries.baselines import kmeans_dictionary, nmf_dictionary


def test_kmeans_finds_planted_directions() -> None:
    learnt = kmeans_dictionary(pixels(), Coloured(), "1", latents=5)
    dictionary = learnt.dictionary
    assert (dictionary.kind, dictionary.active, dictionary.layer) == ("topk", 1, "1")
    planted = COLOURS / np.linalg.norm(COLOURS, axis=1, keepdims=True)
    cosines = dictionary.decoder.numpy() @ planted.T
    assert cosines.max(0) == pytest.approx(1, abs=1e-3)
    assert learnt.left < 0.01
    assert learnt.dead == 0
    # Each vector is its projection on the direction that it lies nearest to.
    vector = torch.tensor([[[[0.3]], [[0.5]], [[0.1]]]])
    code = dictionary.encode(vector).flatten()
    heard = dictionary.decoder @ vector.flatten()
    assert int(code.argmax()) == int(heard.argmax())
    assert float(code.max()) == pytest.approx(float(heard.max()))
    assert int((code > 0).sum()) == 1


def test_factors_are_not_negative_and_write_what_is_planted() -> None:
    learnt = nmf_dictionary(pixels(), Coloured(), "1", latents=4)
    dictionary = learnt.dictionary
    assert dictionary.kind == "nonnegative"
    assert bool((dictionary.decoder >= 0).all())
    assert learnt.left < 0.02
    assert dictionary.provenance["method"] == "non-negative factors"
    assert dictionary.provenance["left"] == learnt.left


def test_few_vectors_are_drawn_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST", 900)
    learnt = kmeans_dictionary(pixels(), Coloured(), "1", latents=5)
    assert 700 < int(learnt.dictionary.provenance["vectors"]) < 1100  # type: ignore[call-overload]
    again = kmeans_dictionary(pixels(), Coloured(), "1", latents=5)
    assert again.dictionary.sha256() == learnt.dictionary.sha256()


def test_what_does_not_fit_is_refused() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 3))
    signed = Network(module, preprocessing=Preprocessing(size=(12, 10)), name="signed")
    with pytest.raises(ValueError, match=r"output is negative in places.* after a ReLU"):
        nmf_dictionary(signed, Coloured(), "0", latents=3)
    with pytest.raises(ValueError, match="latents must be positive"):
        kmeans_dictionary(pixels(), Coloured(), "1", latents=0)
    with pytest.raises(ValueError, match="too few for 9,999 latents"):
        kmeans_dictionary(pixels(), Coloured(), "1", latents=9999)
