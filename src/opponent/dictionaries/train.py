"""Dictionaries learnt from a stream of hidden vectors: TopK autoencoders, in bounded memory.

Images come in a seeded random order, a block at a time. The vectors of all positions of a block are
shuffled and go through in batches; after each block all that training needs is kept, so that what
was interrupted goes on there. A share of the images is kept out, and measures what is left.

Source: Gao et al. (2024), "Scaling and evaluating sparse autoencoders": TopK, and the auxiliary
loss by which dead latents learn what is left.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from opponent.core.progress import Progress, shown, silent
from opponent.dictionaries.dictionary import Dictionary, largest
from opponent.dictionaries.learnt import Learnt, TrainingSettings
from opponent.dictionaries.stream import (
    Hidden,
    Numbers,
    Rows,
    compare_with_begun,
    measure,
    question_of,
    split,
    vectors_of,
)
from opponent.images.sources import Images, open_images
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.manifest import versions

# Steps after which a latent that was never on counts as dead; dead latents that learn at once; and
# the weight of what they learn. Source: Gao et al. (2024), appendix A.
_DEAD_AFTER, _AUXILIARY, _WEIGHT = 100, 256, 1 / 32
# Shares of the steps in which the rate rises, and falls to zero. Ours.
_WARM, _COOL = 0.05, 0.2


def learn_dictionary(
    network: Network | nn.Module | str,
    images: Images,
    layer: str,
    *,
    settings: TrainingSettings | None = None,
    checkpoints: str | Path | None = None,
    progress: Progress | None = None,
) -> Learnt:
    """Learn a TopK dictionary of a layer's hidden vectors, of all positions.

    Args:
        network: a network, a module or a name.
        images: a folder, an archive, a data set, arrays: whatever `open_images` takes.
        layer: whose output it writes, after an activation function acted.
        settings: its size, and how it is learnt.
        checkpoints: a folder, from which an interrupted call goes on to the same numbers.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The dictionary, with decoder rows of length 1, and what it leaves of kept-out images.
    Raises:
        ValueError: too few images or vectors for the settings; an unknown layer.
        RunError: the folder of checkpoints is of another question, or damaged.
    Source: Gao et al. (2024), "Scaling and evaluating sparse autoencoders".

    >>> import numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> settings = opponent.TrainingSettings(latents=256, active=8, steps=2, batch=64)
    >>> learnt = opponent.learn_dictionary(
    ...     "inceptionv1-small", Noise(), "mixed3a", settings=settings)
    >>> learnt.dictionary
    Dictionary(256 latents, topk, 8 active, of 'mixed3a' with 128 channels)
    """
    network, settings = load(network), settings or TrainingSettings()
    chosen = open_images(images, size=network.preprocessing.size)
    kept_out, taught = split(
        network, chosen, layer, settings.latents, kept_out=settings.kept_out, seed=settings.seed
    )
    question = question_of(network, chosen, layer, _method(settings))
    question |= {"settings": asdict(settings)}
    folder = None if checkpoints is None else CheckpointFolder(checkpoints, question)
    with shown(progress) as report:
        if folder is not None:
            compare_with_begun(folder, network, chosen, layer, report)
        trainer = _Trainer(Hidden(network, chosen, layer), layer, settings, folder, report)
        trainer.run(taught)
        left, frequency = measure(
            trainer.dictionary(), vectors_of(network, chosen, layer, kept_out)
        )
    about = {**question, "left": left, "dead": int((frequency == 0).sum())}
    return Learnt(
        dictionary=trainer.dictionary(about),
        left=left,
        curve=tuple(trainer.curve),
        frequency=frequency,
    )


def learn_and_save_dictionary(
    network: Network | nn.Module | str,
    images: Images,
    layer: str,
    file: str | Path,
    *,
    settings: TrainingSettings | None = None,
    progress: Progress | None = None,
) -> Learnt:
    """`learn_dictionary`, saved to a file; its checkpoints lie beside the file until then.

    Args:
        network, images, layer, settings, progress: as for `learn_dictionary`.
        file: the file, ending .safetensors.
    Returns:
        The dictionary, and how well it writes vectors.
    Raises:
        ValueError: as for `learn_dictionary`, or the suffix is another.
    """
    file = Path(file)
    if file.suffix != ".safetensors":
        raise ValueError(f"{file}: dictionaries are written to a file ending .safetensors")
    checkpoints = file.with_name(f".{file.stem}.checkpoints")
    learnt = learn_dictionary(
        network, images, layer, settings=settings, checkpoints=checkpoints, progress=progress
    )
    learnt.dictionary.save(file)
    rmtree(checkpoints, ignore_errors=True)
    return learnt


def learn_from_vectors(
    vectors: Float[np.ndarray, "n k"],
    *,
    settings: TrainingSettings | None = None,
    layer: str | None = None,
    progress: Progress = silent,
) -> Learnt:
    """Learn a TopK dictionary of vectors that are there, without a network.

    Args:
        vectors: one a row; they are learnt from in single precision.
        settings: its size, and how it is learnt; a share of the rows is kept out.
        layer: whose vectors they are, if that has a name.
        progress: called with 'learning', the steps done and the steps in all.
    Returns:
        The dictionary, with decoder rows of length 1, and what it leaves of kept-out rows.
    Raises:
        ValueError: fewer rows to learn from than latents, or numbers that are not finite.
    Source: Gao et al. (2024), "Scaling and evaluating sparse autoencoders".
    """
    settings = settings or TrainingSettings()
    order = np.random.default_rng(settings.seed).permutation(len(vectors))
    count = max(1, round(settings.kept_out * len(vectors)))
    if len(vectors) - count < settings.latents:
        raise ValueError(
            f"{len(vectors):,} vectors are too few for {settings.latents:,} latents; give more "
            "vectors, or fewer latents"
        )
    if not np.isfinite(vectors).all():
        raise ValueError("the vectors hold NaN or infinity; leave those rows out")
    rows = Rows(torch.from_numpy(np.ascontiguousarray(vectors, np.float32)))
    trainer = _Trainer(rows, layer, settings, None, progress)
    trainer.run(order[count:])
    left, frequency = measure(trainer.dictionary(), rows.vectors_of(np.sort(order[:count])))
    about = {
        "method": _method(settings),
        "vectors": len(vectors),
        "settings": asdict(settings),
        "versions": versions(),
        "left": left,
    }
    return Learnt(
        dictionary=trainer.dictionary(about),
        left=left,
        curve=tuple(trainer.curve),
        frequency=frequency,
    )


def _method(settings: TrainingSettings) -> str:
    return "random latents" if settings.random else "TopK autoencoder"


class _Trainer:
    """What is being learnt, by Adam, and for how many steps each latent has been silent."""

    def __init__(
        self,
        source: Hidden | Rows,
        layer: str | None,
        settings: TrainingSettings,
        folder: CheckpointFolder | None,
        progress: Progress,
    ) -> None:
        self.source, self.layer = source, layer
        self.settings, self.folder, self.progress = settings, folder, progress
        self.step, self.block = 0, 0
        self.parameters: dict[str, Tensor] = {}
        self.adam: torch.optim.Adam | None = None
        self.silent = torch.zeros(settings.latents)
        self.scale = 1.0
        self.curve = list[tuple[int, float]]()

    def run(self, taught: Numbers) -> None:
        """Learn until all steps are done, from the last block that was kept on."""
        self._resume()
        size = self.source.block
        total, of_one = self.settings.steps, max(1, -(-len(taught) // size))
        empty = 0
        while self.step < total:
            turn, part = divmod(self.block, of_one)
            order = np.random.default_rng([self.settings.seed, turn]).permutation(len(taught))
            numbers = [int(taught[i]) for i in order[part * size : (part + 1) * size]]
            empty = 0 if self._learn_block(self._vectors(numbers)) else empty + 1
            if empty == of_one:
                raise ValueError(
                    f"none of the {len(taught):,} images to learn from could be read, or gave "
                    "finite numbers; give others"
                )
            self.block += 1
            self._keep()

    def _vectors(self, numbers: list[int]) -> Float[Tensor, "m k"] | None:
        """All vectors of a block; None where no image of it could be read."""
        vectors = list(self.source.vectors_of(numbers))
        return torch.cat(vectors) if any(map(len, vectors)) else None

    def _learn_block(self, vectors: Float[Tensor, "m k"] | None) -> bool:
        """Learn from a block, if there is anything to learn from; whether there was."""
        if vectors is None:
            return False
        if not self.parameters:
            self._begin(vectors)
        generator = torch.Generator().manual_seed(self.settings.seed + 7919 * self.block)
        # In place: a block is held twice, not three times.
        shuffled = vectors[torch.randperm(len(vectors), generator=generator)].div_(self.scale)
        del vectors
        for batch in shuffled.split(self.settings.batch):
            if self.step == self.settings.steps:
                break
            if len(batch) == self.settings.batch or len(shuffled) < self.settings.batch:
                self._learn(batch)
            self.progress("learning", self.step, self.settings.steps)
        return True

    def _begin(self, vectors: Float[Tensor, "m k"]) -> None:
        """Random directions, the mean as bias, and vectors scaled to a length of about one."""
        bias = vectors.mean(0)
        self.scale = float((vectors - bias).norm(dim=1).mean()) or 1.0
        generator = torch.Generator().manual_seed(self.settings.seed)
        decoder = torch.randn(self.settings.latents, vectors.shape[1], generator=generator)
        decoder /= decoder.norm(dim=1, keepdim=True)
        self._hold(
            {
                "decoder": decoder,
                "encoder": decoder.clone(),
                "encoder_bias": torch.zeros(self.settings.latents),
                "bias": bias.cpu() / self.scale,
            }
        )

    def _hold(self, parameters: Mapping[str, Tensor]) -> None:
        device = self.source.device
        self.silent = self.silent.to(device)
        self.parameters = {
            name: x.clone().to(device).requires_grad_() for name, x in parameters.items()
        }
        if self.settings.random:
            self.parameters["decoder"].requires_grad = False
        self.adam = torch.optim.Adam(
            [x for x in self.parameters.values() if x.requires_grad], lr=self.settings.rate
        )

    def _learn(self, batch: Float[Tensor, "m k"]) -> None:
        """One step of Adam, after which the decoder's rows are of length 1."""
        assert self.adam is not None
        self.adam.param_groups[0]["lr"] = self.settings.rate * self._share()
        self.adam.zero_grad()
        with torch.enable_grad():
            rest, codes, loss = self._loss(batch)
            loss.backward()
        self.adam.step()
        decoder = self.parameters["decoder"]
        with torch.no_grad():
            decoder /= decoder.norm(dim=1, keepdim=True)
        self.silent = torch.where((codes > 0).any(0), 0.0, self.silent + 1)
        self.step += 1
        if self.step % max(1, self.settings.steps // 50) == 0:
            spread = (batch - batch.mean(0)).square().sum()
            self.curve.append((self.step, float(rest.square().sum() / spread)))

    def _loss(
        self, batch: Float[Tensor, "m k"]
    ) -> tuple[Float[Tensor, "m k"], Float[Tensor, "m l"], Float[Tensor, ""]]:
        """What is left, the codes, and the loss: that, and what dead latents leave of it."""
        learnt = self.parameters
        centred = batch - learnt["bias"]
        heard = centred @ learnt["encoder"].T + learnt["encoder_bias"]
        codes = largest(heard, self.settings.active)
        rest = centred - codes @ learnt["decoder"]
        loss = rest.square().sum(1).mean()
        dead = self.silent >= _DEAD_AFTER
        if count := min(int(dead.sum()), _AUXILIARY):
            others = largest(heard.masked_fill(~dead, -torch.inf), count)
            left = rest.detach() - others @ learnt["decoder"]
            loss = loss + _WEIGHT * left.square().sum(1).mean()
        return rest.detach(), codes.detach(), loss

    def _share(self) -> float:
        """Of the rate of learning, at this step."""
        done = self.step / self.settings.steps
        return min(1.0, done / _WARM, (1 - done) / _COOL + 1e-3)

    def dictionary(self, provenance: Mapping[str, Any] | None = None) -> Dictionary:
        """What is learnt so far, for vectors that are not scaled."""
        values = {name: x.detach().cpu().clone() for name, x in self.parameters.items()}
        values["bias"] *= self.scale
        values["encoder_bias"] *= self.scale
        return Dictionary(
            **values, kind="topk", active=self.settings.active, layer=self.layer,
            provenance=dict(provenance or {}),
        )  # fmt: skip

    def _keep(self) -> None:
        if self.folder is None or self.adam is None:
            return
        arrays = {name: x.detach().cpu().numpy() for name, x in self.parameters.items()}
        for number, state in self.adam.state_dict()["state"].items():
            arrays |= {f"adam.{number}.{name}": x.cpu().numpy() for name, x in state.items()}
        about = {"step": self.step, "block": self.block, "scale": self.scale, "curve": self.curve}
        self.folder.write("state", arrays | {"silent": self.silent.cpu().numpy()}, about)

    def _resume(self) -> None:
        if self.folder is None or not self.folder.has("state"):
            return
        arrays, about = self.folder.read("state")
        tensors = {name: torch.from_numpy(x) for name, x in arrays.items()}
        self.silent = tensors.pop("silent")
        self._hold({name: x for name, x in tensors.items() if "." not in name})
        assert self.adam is not None
        groups = self.adam.state_dict()["param_groups"]
        state: dict[int, dict[str, Tensor]] = {n: {} for n in groups[0]["params"]}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, number, what = name.split(".")
                state[int(number)][what] = tensor
        self.adam.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.block, self.scale = about["step"], about["block"], about["scale"]
        self.curve = [(int(step), float(left)) for step, left in about["curve"]]
