"""A dictionary of a layer's features, and files of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from opponent.core.text import one_line
from opponent.models.state import undisturbed
from opponent.models.weights import sha256_of_arrays
from opponent.storage.files import atomic_write

# How hidden vectors are encoded.
KINDS = ("topk", "relu", "linear", "nonnegative")
# By the method that a dictionary's provenance names, what it is called.
TITLES = {
    "spherical k-means": "k-means",
    "non-negative factors": "NMF",
    "random latents": "random",
}
# Steps of the projected gradient that finds non-negative codes, and values encoded at once.
_STEPS, _AT_ONCE = 200, 2**25


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Dictionary:
    """Directions of a layer's features, and how a hidden vector is written by them.

    h = z D + bias + rest, with a code z of one number a latent.

    Args:
        decoder: D (latents, channels), for each latent what it adds to h.
        bias: (channels,), what h is without any latent.
        encoder: (latents, channels), for each latent the direction that it listens to; None for
            'nonnegative'.
        encoder_bias: (latents,), added to what it hears.
        kind: 'linear': z = (h - bias) encoder^T + encoder_bias. 'relu': its positive part. 'topk':
            the `active` largest of that. 'nonnegative': the z >= 0 that leaves the smallest rest.
        active: latents that are on at once, for 'topk'.
        layer: the layer whose output it writes; None where a file does not say.
        provenance: how it was made, ready for JSON.
    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, no latent that adds
            anything, another kind, or a number of active latents that does not fit.

    >>> import opponent, torch
    >>> dictionary = opponent.Dictionary.identity(3, layer="mixed3a")
    >>> dictionary
    Dictionary(3 latents, linear, of 'mixed3a' with 3 channels)
    >>> dictionary.encode(torch.tensor([[[[1.0]], [[0.0]], [[2.0]]]])).flatten()
    tensor([1., 0., 2.])
    """

    # Of l latents and k channels all of them; what does not fit is told by name.
    decoder: Float[Tensor, "l k"]
    bias: Float[Tensor, " _"]
    encoder: Float[Tensor, "_ _"] | None
    encoder_bias: Float[Tensor, " _"]
    kind: str
    active: int | None = None
    layer: str | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}, not {self.kind!r}")
        latents, channels = self.decoder.shape
        if not latents or not channels:
            raise ValueError(f"a decoder of shape {(latents, channels)} has no latent")
        shapes = {"bias": (channels,), "encoder_bias": (latents,), "encoder": (latents, channels)}
        for name, shape in shapes.items():
            given = getattr(self, name)
            if given is not None and tuple(given.shape) != shape:
                raise ValueError(
                    f"the {name} has shape {tuple(given.shape)}, and a decoder of {latents} "
                    f"latents and {channels} channels goes with {shape}"
                )
        if (self.encoder is None) != (self.kind == "nonnegative"):
            raise ValueError("a dictionary has an encoder, but for the kind 'nonnegative'")
        for name in ("decoder", "bias", "encoder", "encoder_bias"):
            given = getattr(self, name)
            if given is not None and not given.isfinite().all():
                raise ValueError(f"the {name} holds NaN or infinity")
        if not self.decoder.any():
            raise ValueError("all latents are dead: the decoder is zero")
        if (self.active is not None) != (self.kind == "topk"):
            raise ValueError("the number of active latents is for the kind 'topk', which needs it")
        if self.active is not None and not 1 <= self.active <= latents:
            raise ValueError(f"{self.active} of {latents} latents cannot be active")

    @classmethod
    def identity(cls, channels: int, layer: str | None = None) -> "Dictionary":
        """The dictionary whose latents are the layer's channels.

        Args:
            channels: how many.
            layer: the layer.
        """
        one = torch.eye(channels)
        zero = torch.zeros(channels)
        return cls(
            decoder=one, bias=zero, encoder=one, encoder_bias=zero, kind="linear", layer=layer
        )

    @property
    def latents(self) -> int:
        """How many latents there are."""
        return self.decoder.shape[0]

    @property
    def channels(self) -> int:
        """How many channels the layer has."""
        return self.decoder.shape[1]

    @property
    def title(self) -> str:
        """What it is called among others of its layer: 'topk 2048/24', 'k-means 512'."""
        name = TITLES.get(str(self.provenance.get("method")), self.kind)
        several = self.active is not None and self.active > 1
        return f"{name} {self.latents}" + (f"/{self.active}" if several else "")

    @cached_property
    def never_negative(self) -> bool:
        """Whether no code can write a negative value, as with non-negative factors."""
        lowest = min(float(self.decoder.min()), float(self.bias.min()))
        return self.kind == "nonnegative" and lowest >= 0

    @cached_property
    def directions(self) -> Float[Tensor, "l k"]:
        """The direction of each latent: its decoder at unit length; zero where that is zero."""
        lengths = torch.linalg.vector_norm(self.decoder, dim=1, keepdim=True)
        directions: Tensor = self.decoder / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)
        return directions

    def listens_to(self, latent: int) -> list[int]:
        """The channels that a latent is read from; of the kind 'nonnegative' those it adds to.

        Args:
            latent: its number.
        """
        weights = (self.decoder if self.encoder is None else self.encoder)[latent]
        return weights.nonzero().flatten().tolist()

    @property
    def described(self) -> str:
        """Its title and the beginning of its digest, by which answers can be told apart."""
        return f"{self.title}, SHA-256 {self.sha256()[:12]}"

    def __repr__(self) -> str:
        kind = f"{self.kind}, {self.active} active" if self.active else self.kind
        where = "any layer" if self.layer is None else repr(self.layer)
        return (
            f"Dictionary({self.latents:,} latents, {kind}, of {where} with {self.channels:,} "
            "channels)"
        )

    def to(self, like: Tensor) -> "Dictionary":
        """The same on a tensor's device, in its type of numbers.

        Args:
            like: the tensor.
        """
        if self.decoder.device == like.device and self.decoder.dtype == like.dtype:
            return self
        return replace(
            self,
            decoder=self.decoder.to(like),
            bias=self.bias.to(like),
            encoder=None if self.encoder is None else self.encoder.to(like),
            encoder_bias=self.encoder_bias.to(like),
        )

    @undisturbed()
    @torch.no_grad()
    def encode(self, hidden: Float[Tensor, "n k h w"]) -> Float[Tensor, "n l h w"]:
        """The code of each hidden vector.

        Args:
            hidden: the layer's output.
        Raises:
            ValueError: another number of channels.
        """
        if hidden.shape[1] != self.channels:
            raise ValueError(
                f"a dictionary of {self.channels} channels does not fit maps of {hidden.shape[1]}"
            )
        dictionary = self.to(hidden)
        vectors = hidden.movedim(1, 3)
        flat = vectors.reshape(-1, self.channels)
        parts = flat.split(max(1, _AT_ONCE // self.latents))
        codes = torch.cat([dictionary._codes(part) for part in parts])
        return codes.view(*vectors.shape[:3], self.latents).movedim(3, 1).contiguous()

    def _codes(self, vectors: Float[Tensor, "m k"]) -> Float[Tensor, "m l"]:
        centred = vectors - self.bias
        if self.encoder is None:
            return self._nonnegative(centred)
        heard: Tensor = centred @ self.encoder.T + self.encoder_bias
        if self.kind == "linear":
            return heard
        return heard.clamp(min=0) if self.active is None else largest(heard, self.active)

    def _nonnegative(self, vectors: Float[Tensor, "m k"]) -> Float[Tensor, "m l"]:
        """The codes >= 0 that leave the smallest rest, by accelerated projected gradients.

        Source: Beck & Teboulle (2009), FISTA.
        """
        gram, target = self._gram, vectors @ self.decoder.T
        # Half precision has no such norm.
        step = (1 / torch.linalg.matrix_norm(gram.float(), 2)).to(gram)
        codes = torch.zeros_like(target)
        ahead, momentum = codes, 1.0
        for _ in range(_STEPS):
            moved = (ahead - step * (ahead @ gram - target)).clamp(min=0)
            faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = moved + (momentum - 1) / faster * (moved - codes)
            codes, momentum = moved, faster
        return codes

    @cached_property
    def _gram(self) -> Float[Tensor, "l l"]:
        return self.decoder @ self.decoder.T

    def decode(self, codes: Float[Tensor, "n l h w"]) -> Float[Tensor, "n k h w"]:
        """What latents add up to, without the bias.

        Args:
            codes: one number a latent and position.
        """
        decoder = self.to(codes).decoder
        return torch.einsum("nlhw,lk->nkhw", codes, decoder)

    def sha256(self) -> str:
        """SHA-256 over kind, number of active latents and all arrays."""
        text = f"{self.kind} {self.active} {sha256_of_arrays(self._arrays())}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _arrays(self) -> dict[str, Tensor]:
        arrays = {
            "decoder": self.decoder,
            "bias": self.bias,
            "encoder": self.encoder,
            "encoder_bias": self.encoder_bias,
        }
        # In single precision, as files are read; each of its own: encoder and decoder may be one.
        return {
            name: x.cpu().float().contiguous().clone()
            for name, x in arrays.items()
            if x is not None
        }

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, with all else in its metadata.

        Args:
            path: the file, ending .safetensors.
        Raises:
            ValueError: the suffix is another.
        """
        if Path(path).suffix != ".safetensors":
            raise ValueError(f"{path}: dictionaries are written to a file ending .safetensors")
        about = {
            "kind": self.kind,
            "active": self.active,
            "layer": self.layer,
            "provenance": dict(self.provenance),
        }
        with atomic_write(Path(path)) as temporary:
            temporary.write_bytes(save(self._arrays(), {"dictionary": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | Path) -> "Dictionary":
        """A dictionary from a file: one that `save` wrote, or anybody's.

        Args:
            path: safetensors with `decoder` (latents, channels) and, but for the kind
                'nonnegative', `encoder` (latents, channels); `bias` and `encoder_bias` are zero
                where they are missing. Its metadata may say in `dictionary`, as JSON, the `kind`,
                `active` and `layer`; without, the kind is 'relu'.
        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no dictionary; the message says what is wrong.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"there is no dictionary at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                text = (file.metadata() or {}).get("dictionary", "{}")
        except (SafetensorError, ValueError) as error:
            raise OSError(
                f"{path} is no safetensors file, or not all of it: {one_line(error)}"
            ) from error
        try:
            return cls(**_read(arrays, _said(text)))
        except ValueError as error:
            raise ValueError(f"{path} holds no dictionary: {error}") from error


def largest(heard: Float[Tensor, "m l"], count: int) -> Float[Tensor, "m l"]:
    """The largest values of each row where they are positive, and zero elsewhere.

    Args:
        heard: one row a vector.
        count: how many of each row.
    """
    values, places = heard.topk(count, dim=1)
    return torch.zeros_like(heard).scatter(1, places, values.clamp(min=0))


def _said(text: str) -> Any:
    """What a file's metadata says."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"what its metadata says in 'dictionary' is no JSON: {one_line(error)}"
        ) from error


def _read(arrays: Mapping[str, Tensor], about: Any) -> dict[str, Any]:
    """What a file says, for the constructor."""
    decoder = arrays.get("decoder")
    if decoder is None:
        raise ValueError(f"there is no array 'decoder' among {', '.join(arrays) or 'none'}")
    for name in ("decoder", "encoder", "bias", "encoder_bias"):
        array = arrays.get(name)
        axes = 2 if name.endswith("coder") else 1
        if array is not None and (not array.is_floating_point() or array.ndim != axes):
            raise ValueError(f"the {name} is no array of numbers with {axes} axes")
    kinds = {"kind": str, "active": int | None, "layer": str | None, "provenance": dict}
    if not isinstance(about, dict) or not all(
        isinstance(about[k], t) and not isinstance(about[k], bool)
        for k, t in kinds.items()
        if k in about
    ):
        raise ValueError("what its metadata says of kind, active latents and layer has other types")
    zero = {"bias": decoder.shape[1], "encoder_bias": decoder.shape[0]}
    values = {
        name: arrays[name].float() if name in arrays else torch.zeros(size)
        for name, size in zero.items()
    }
    encoder = arrays.get("encoder")
    return {
        **values,
        "decoder": decoder.float(),
        "encoder": None if encoder is None else encoder.float(),
        "kind": about.get("kind", "relu"),
        "active": about.get("active"),
        "layer": about.get("layer"),
        "provenance": about.get("provenance", {}),
    }
