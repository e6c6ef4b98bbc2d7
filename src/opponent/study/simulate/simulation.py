"""Simulated participants, who take part through the server as people do.

They show whether a study can be answered at all, what guessing gives, and how much of the task
similarity of pictures solves. They do not replace people.
"""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from opponent.core.errors import RunError
from opponent.core.progress import Progress, displayed, silent
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.storage.files import write_text
from opponent.storage.manifest import versions
from opponent.study.design.settings import SimulationRecord, to_json
from opponent.study.design.study import Study
from opponent.study.simulate.observers import (
    LAYER,
    MODEL,
    SKILLS,
    TEMPERATURE,
    Chance,
    Observer,
    Perfect,
    Similarity,
    embed,
)
from opponent.study.simulate.participation import (
    client_of_folder,
    client_of_url,
    participate,
    picture,
)

if TYPE_CHECKING:
    import httpx


@displayed
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

    Without `url` they answer a copy of the study, so that the study itself has no simulated
    answers. A copy with the same simulation is left as it is. A simulation that was interrupted
    begins again, and ends with the same answers.

    Args:
        study: a study, or its folder.
        out: the copy's folder. Default: beside the study, STUDY-simulated-SKILL.
        url: a running server of this study, which then gets the answers.
        participants: how many.
        skill: 'chance', 'perfect' or 'similarity'.
        temperature: of the similarity observer, the median over participants; 0 for no chance.
        network: embeds pictures for the similarity observer.
        layer: of that network.
        seed: of the participants.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The study that was answered.
    Raises:
        ValueError: an unknown skill, fewer than one participant, or a negative temperature.
        RunError: the copy's folder holds something else, or the server refuses.
        ImportError: starlette or httpx is not installed.
    """
    study = study if isinstance(study, Study) else Study(study)
    if skill not in SKILLS:
        raise ValueError(f"skill is {', '.join(SKILLS)}, not {skill!r}")
    if participants < 1 or temperature < 0:
        raise ValueError(f"{participants} participants at temperature {temperature}")
    progress = progress or silent
    loaded = load(network) if skill == "similarity" else None
    if loaded is not None:
        loaded.layer(layer)  # raises where there is none

    async def run(server: "AbstractAsyncContextManager[httpx.AsyncClient]") -> None:
        async with server as client:
            if loaded is None:
                observer = _observer(study, skill)
            else:
                observer = await _similarity(client, study, loaded, layer, progress)
            await participate(
                client, observer, temperature=temperature, participants=participants, seed=seed,
                progress=progress,
            )  # fmt: skip

    if url is not None:
        asyncio.run(run(client_of_url(url)))
        return study
    folder = Path(out) if out is not None else _beside(study.folder, skill)
    record = SimulationRecord(
        study_sha256=study.fingerprint(),
        participants=participants,
        skill=skill,
        seed=seed,
        versions=versions(),
    )
    if loaded is not None:
        record = structs.replace(
            record,
            temperature=temperature,
            network=loaded.name,
            layer=layer,
            weights_sha256=loaded.weights_sha256(),
        )
    text = to_json(record)
    if _is_there(folder, text):
        return Study(folder)
    # Renamed once it is complete, so that a folder of that name is a complete simulation.
    unfinished = folder.with_name(f".{folder.name}.part")
    _copy(study.folder, unfinished)
    asyncio.run(run(client_of_folder(unfinished)))
    write_text(unfinished / "simulated.json", text)
    unfinished.rename(folder)
    return Study(folder)


def _beside(folder: Path, skill: str) -> Path:
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}-simulated-{skill}")


def _is_there(folder: Path, text: str) -> bool:
    """Whether the folder holds this simulation, by the text of its simulated.json.

    Raises:
        RunError: it holds something else.
    """
    if not folder.exists():
        return False
    path = folder / "simulated.json"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return True
    raise RunError(f"{folder} holds something else than this simulation; give another --out")


def _copy(source: Path, target: Path) -> None:
    """Copy a study without its answers and sheets; what an interrupted copy left is replaced."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in ("study.json", "trials.parquet"):
        shutil.copyfile(source / name, target / name)
    shutil.copytree(source / "stimuli", target / "stimuli")


def _observer(study: Study, skill: str) -> Callable[[float], Observer]:
    """From a participant's temperature, an observer that needs none."""
    if skill == "chance":
        return lambda _: Chance()
    return lambda _: Perfect(study=study)


async def _similarity(
    client: "httpx.AsyncClient", study: Study, network: Network, layer: str, progress: Progress
) -> Callable[[float], Observer]:
    """From a participant's temperature, a similarity observer of the server's pictures."""
    pictures = {id: await picture(client, id) for id in sorted(study.stimuli)}
    embeddings = embed(pictures, network, layer, progress)
    return lambda temperature: Similarity(embeddings=embeddings, temperature=temperature)
