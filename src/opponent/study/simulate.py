"""Simulated participants, who take part through the server as people do.

They show whether a study can be answered at all, what guessing gives, and how much of the task a
plain similarity of pictures solves. They are no substitute for people.
"""

import asyncio
import io
import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float
from PIL import Image

from opponent.core.errors import RunError
from opponent.images.decode import fit_image
from opponent.models.network import Network
from opponent.models.registry import load_image
from opponent.storage.files import write_text
from opponent.storage.manifest import versions
from opponent.study.study import Study

if TYPE_CHECKING:
    import httpx

SKILLS = ("chance", "perfect", "similarity")
# What the similarity observer sees a picture as: a small thumbnail for colour and layout, and a
# late layer for what it shows. Both are ours.
_THUMBNAIL, MODEL, LAYER = 6, "inceptionv1-mini", "mixed5b"
TEMPERATURE = 0.15
# Participants' temperatures, and the times that they take, are lognormal. Ours.
_DIFFERENCE, _SECONDS, _SPREAD = 0.4, 5.0, 0.5
# Participants at a time.
_TOGETHER = 8

Progress = Callable[[str, int, int], None]
Vector = Float[np.ndarray, " _"]


class Observer(Protocol):
    """Who takes part: from a trial's id and pictures, in the order shown, two different choices."""

    def answer(
        self, trial: str, examples: Sequence[str], choices: Sequence[str], rng: np.random.Generator
    ) -> tuple[str, str]:
        """The answers to the first and to the second question."""


@dataclass(frozen=True, kw_only=True)
class Chance:
    """Who guesses."""

    def answer(
        self, trial: str, examples: Sequence[str], choices: Sequence[str], rng: np.random.Generator
    ) -> tuple[str, str]:
        """Any two choices."""
        first, second = rng.permutation(len(choices))[:2]
        return choices[first], choices[second]


@dataclass(frozen=True, kw_only=True)
class Perfect:
    """Who knows: it reads the answers in the study's folder."""

    study: Study

    def answer(
        self, trial: str, examples: Sequence[str], choices: Sequence[str], rng: np.random.Generator
    ) -> tuple[str, str]:
        """The MEI and the MII."""
        known = self.study.trial(trial)
        return known.mei, known.mii


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Who takes the picture most like the examples, and then the one least like them.

    Like is what resembles their mean and one of them, so that a picture that is one of them stands
    out; unlike is what resembles their mean least.

    Args:
        seen: each stimulus as two vectors, of looks and of content.
        temperature: how much chance there is in a choice, in units of the mean cosine: 0 for none.
    """

    seen: Mapping[str, tuple[Vector, Vector]]
    temperature: float

    def answer(
        self, trial: str, examples: Sequence[str], choices: Sequence[str], rng: np.random.Generator
    ) -> tuple[str, str]:
        """The nearest and the farthest of the choices, more or less."""
        middle, nearest = self._alike(examples, choices)
        first = self._pick((middle + nearest) / 2, rng)
        others = [i for i in range(len(choices)) if i != first]
        second = others[self._pick(-middle[others], rng)]
        return choices[first], choices[second]

    def _alike(self, examples: Sequence[str], choices: Sequence[str]) -> tuple[Vector, Vector]:
        """Each choice's cosine with the examples' mean, and with the nearest of them.

        Both are means over the two kinds of vectors.
        """
        middle, each = np.zeros(len(choices)), np.zeros((len(choices), len(examples)))
        for kind in range(2):
            shown = np.stack([self.seen[id][kind] for id in (*examples, *choices)])
            # Against what else is on the screen: all photographs are alike besides.
            shown = _unit(shown - shown.mean(0))
            given, asked = shown[: len(examples)], shown[len(examples) :]
            middle += asked @ _unit(given.mean(0, keepdims=True))[0] / 2
            each += asked @ given.T / 2
        return middle, each.max(1)

    def _pick(self, scores: Vector, rng: np.random.Generator) -> int:
        """The largest score, with Gumbel noise: a softmax at the temperature."""
        return int((scores + self.temperature * rng.gumbel(size=len(scores))).argmax())


def _unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Float[np.ndarray, "n d"] = vectors / np.where(norms > 0, norms, 1)
    return scaled


def embed(
    pictures: Mapping[str, bytes], network: Network, layer: str, progress: Progress | None = None
) -> dict[str, tuple[Vector, Vector]]:
    """Each PNG as a thumbnail's pixels, and as the layer's mean over space.

    Args:
        pictures: PNG files by id.
        network: any.
        layer: of the network, read at its output.
        progress: called with what is being done, the pictures done and the pictures in all.
    """
    found: dict[str, tuple[Vector, Vector]] = {}
    ids, batch = list(pictures), 32
    for start in range(0, len(ids), batch):
        some = ids[start : start + batch]
        images = [Image.open(io.BytesIO(pictures[id])).convert("RGB") for id in some]
        inputs = network.inputs(
            np.stack([fit_image(x, size=network.preprocessing.size) for x in images])
        )
        hidden = network.run(inputs, layer, after=True).target.double().mean((2, 3)).cpu().numpy()
        for id, image, vector in zip(some, images, hidden, strict=True):
            side = (_THUMBNAIL, _THUMBNAIL)
            looks = np.asarray(image.resize(side, Image.Resampling.BOX), dtype=np.float64)
            found[id] = looks.ravel() / 255, vector
        if progress is not None:
            progress("looking at pictures", start + len(some), len(ids))
    return found


def simulate(
    study: Study | str | Path,
    out: str | Path | None = None,
    *,
    url: str | None = None,
    participants: int = 48,
    skill: str = "similarity",
    temperature: float = TEMPERATURE,
    network: Network | str = MODEL,
    layer: str = LAYER,
    seed: int = 0,
    progress: Progress | None = None,
) -> Study:
    """Let simulated participants take part in a study.

    Without `url`, in a copy of the study, so that the study itself has no simulated answers. Where
    the same simulation is there already it is left as it is; one that was interrupted begins anew,
    and ends with the same answers.

    Args:
        study: a study, or its folder.
        out: the copy's folder; default: beside the study, STUDY-simulated-SKILL.
        url: a running server of this very study, which then gets the answers.
        participants: how many.
        skill: 'chance', 'perfect' or 'similarity'.
        temperature: of the similarity observer, the median over participants; 0 for no chance.
        network: what the similarity observer sees with.
        layer: of that network.
        seed: of the participants.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        The study that was answered.
    Raises:
        ValueError: an unknown skill, fewer than one participant, a negative temperature.
        RunError: the copy's folder holds something else, or the server refuses.
        ImportError: starlette or httpx is not installed.
    """
    study = study if isinstance(study, Study) else Study(study)
    if skill not in SKILLS:
        raise ValueError(f"skill is {', '.join(SKILLS)}, not {skill!r}")
    if participants < 1 or temperature < 0:
        raise ValueError(f"{participants} participants at temperature {temperature}")
    report = progress or (lambda *_: None)
    seen = load_image(network) if skill == "similarity" else None
    about: dict[str, Any] = {
        "study_sha256": study.fingerprint(),
        "participants": participants,
        "skill": skill,
        "seed": seed,
        "versions": versions(),
    }
    if seen is not None:
        about |= {"temperature": temperature, "network": seen.name, "layer": layer}
        about |= {"weights_sha256": seen.weights_sha256()}
        seen.layer(layer)

    async def run(client: "httpx.AsyncClient") -> None:
        observer = await _observer(client, study, skill, temperature, seen, layer, report)
        await _all(client, observer, temperature, participants, seed, report)

    if url is not None:
        asyncio.run(_elsewhere(url, run))
        return study
    folder = Path(out) if out is not None else _beside(study.folder, skill)
    asked = json.dumps(about, indent=1) + "\n"
    if _is_there(folder, asked):
        return Study(folder)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in ("study.json", "trials.parquet"):
        shutil.copyfile(study.folder / name, part / name)
    shutil.copytree(study.folder / "stimuli", part / "stimuli")
    asyncio.run(_here(part, run))
    write_text(part / "simulated.json", asked)
    part.rename(folder)
    return Study(folder)


def _beside(folder: Path, skill: str) -> Path:
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}-simulated-{skill}")


def _is_there(folder: Path, asked: str) -> bool:
    """Whether the folder holds just this simulation."""
    if not folder.exists():
        return False
    told = folder / "simulated.json"
    if told.is_file() and told.read_text(encoding="utf-8") == asked:
        return True
    raise RunError(f"{folder} holds something else than this simulation; give another --out")


@asynccontextmanager
async def _client(**options: Any) -> "AsyncIterator[httpx.AsyncClient]":
    try:
        import httpx
    except ImportError as error:
        raise ImportError(f'{error}: pip install "opponent[experiment]"') from error
    try:
        if app := options.pop("app", None):
            options["transport"] = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(timeout=60.0, **options) as client:
            yield client
    except httpx.TransportError as error:
        raise RunError(f"{options['base_url']} cannot be reached: {error!r}") from error


async def _elsewhere(url: str, run: Callable[["httpx.AsyncClient"], Any]) -> None:
    async with _client(base_url=url) as client:
        await run(client)


async def _here(folder: Path, run: Callable[["httpx.AsyncClient"], Any]) -> None:
    """Against a server in this process."""
    try:
        from opponent.study.server import create_app
    except ImportError as error:
        raise ImportError(f'{error}: pip install "opponent[experiment]"') from error

    app = create_app(folder, limits=None)
    async with (
        app.router.lifespan_context(app),
        _client(base_url="http://simulated", app=app) as client,
    ):
        await run(client)


async def _observer(
    client: "httpx.AsyncClient",
    study: Study,
    skill: str,
    temperature: float,
    network: Network | None,
    layer: str,
    report: Progress,
) -> Callable[[float], Observer]:
    """From a participant's temperature, the participant."""
    if skill == "chance":
        return lambda _: Chance()
    if skill == "perfect":
        return lambda _: Perfect(study=study)
    assert network is not None
    pictures = {}
    for id in sorted(study.stimuli):
        answer = await client.get(f"/stimuli/{id}.png")
        if answer.status_code != 200:
            raise RunError(f"{answer.request.url} answers {answer.status_code}: another study?")
        pictures[id] = answer.content
    seen = embed(pictures, network, layer, report)
    return lambda own: Similarity(seen=seen, temperature=own)


async def _all(
    client: "httpx.AsyncClient",
    observer: Callable[[float], Observer],
    temperature: float,
    participants: int,
    seed: int,
    report: Progress,
) -> None:
    done, free = 0, asyncio.Semaphore(_TOGETHER)
    report("participants", 0, participants)

    async def one(number: int, headers: Mapping[str, str]) -> None:
        nonlocal done
        rng = np.random.default_rng((seed, number))
        own = temperature * float(np.exp(_DIFFERENCE * rng.standard_normal()))
        async with free:
            await _take_part(client, headers, observer(own), rng)
        done += 1
        report("participants", done, participants)

    waiting = []
    for number in range(participants):
        # One after another, so that each simulation gives the same number to the same participant.
        begun = await _send(client, "POST", "/api/session", {}, {})
        waiting.append(one(number, {"authorization": f"Bearer {begun['token']}"}))
    await asyncio.gather(*waiting)


async def _take_part(
    client: "httpx.AsyncClient",
    headers: Mapping[str, str],
    observer: Observer,
    rng: np.random.Generator,
) -> None:
    """A whole session, from consent to the end."""
    session = await _send(client, "GET", "/api/session", headers)
    consent = {"version": session["consent"]["version"], "agreed": True}
    await _send(client, "POST", "/api/consent", headers, consent)
    for block in session["blocks"]:
        for shown in block["trials"]:
            choices = observer.answer(shown["trial"], shown["examples"], shown["choices"], rng)
            for question, choice in zip(("mei", "mii"), choices, strict=True):
                ms = int(1000 * _SECONDS * np.exp(_SPREAD * rng.standard_normal()))
                answer = {"trial": shown["trial"], "question": question, "choice": choice}
                await _send(client, "POST", "/api/answer", headers, answer | {"reaction_ms": ms})
    await _send(client, "POST", "/api/finish", headers, {})


async def _send(
    client: "httpx.AsyncClient",
    method: str,
    path: str,
    headers: Mapping[str, str],
    data: Mapping[str, Any] | None = None,
) -> Any:
    """Ask the server; wait where it says so, and refuse to go on where it refuses."""
    for _ in range(20):
        answer = await client.request(method, path, headers=dict(headers), json=data)
        if answer.status_code != 429:
            break
        await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
    if not answer.is_success:
        raise RunError(f"{path} answers {answer.status_code}: {answer.text[:200]}")
    return answer.json()
