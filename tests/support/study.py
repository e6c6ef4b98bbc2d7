"""A tiny study without a network, and its answers, for the tests of all that read them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from opponent.study.analysis.results import Results
from opponent.study.design.settings import FORMAT, QUESTIONS, Settings, to_json
from opponent.study.design.study import Shown, Study, Trial, write_study
from opponent.study.server.store import Answer, Store

LAYERS = ("conv2d0", "mixed4a", "mixed5a")


def small_study(
    folder: Path,
    *,
    features: int = 2,
    layers: tuple[str, ...] = LAYERS,
    catch: int = 1,
    practice: int = 1,
    side: int = 12,
    seed: int = 0,
    **settings: Any,
) -> Study:
    """A valid study of pictures of plain colour with noise.

    In each trial examples and MEI have one colour, the MII its complement, distractors others.

    Args:
        folder: where it is written.
        features: trials a layer.
        layers: their names.
        catch: catch trials a layer.
        practice: trials to practise with.
        side: of a picture, in pixels.
        seed: of pictures, and of the order shown.
        settings: what study.json is to have instead.
    """
    rng = np.random.default_rng(seed)
    (folder / "stimuli").mkdir(parents=True)

    def stimulus(colour: np.ndarray) -> str:
        noise = rng.integers(-20, 21, (side, side, 3))
        pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
        id = hashlib.sha256(pixels.tobytes()).hexdigest()[:16]
        Image.fromarray(pixels).save(folder / "stimuli" / f"{id}.png")
        return id

    def trial(kind: str, layer: str, number: int) -> Trial:
        colour = rng.integers(0, 256, 3)
        mei, mii = stimulus(colour), stimulus(255 - colour)
        examples = [stimulus(colour) for _ in range(6)]
        if kind == "catch":
            examples[0] = mei
        others = [stimulus(rng.integers(0, 256, 3)) for _ in range(7)]
        name = f"{seed} {kind} {layer} {number}"
        return Trial(
            id=hashlib.sha256(name.encode()).hexdigest()[:12],
            kind=kind,
            layer=layer,
            feature=f"{layer}:kmeans{number}",
            examples=tuple(examples),
            choices=(mei, mii, *others),
            mei=mei,
            mii=mii,
        )

    trials = [trial("practice", layers[0], 100 + i) for i in range(practice)]
    for layer in layers:
        trials += [trial("catch", layer, 200 + i) for i in range(catch)]
        trials += [trial("trial", layer, i) for i in range(features)]
    values = small_settings(layers, features=features, catch=catch, practice=practice, seed=seed)
    write_study(folder, msgspec.convert(values | settings, Settings), trials)
    return Study(folder)


def small_settings(
    layers: tuple[str, ...] = LAYERS,
    *,
    features: int = 2,
    catch: int = 1,
    practice: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """What study.json holds, as JSON."""
    names = ("early", "middle", "late")
    labels = names if len(layers) == len(names) else [f"layer {i + 1}" for i in range(len(layers))]
    return {
        "format": FORMAT,
        "title": "What makes it go quiet?",
        "seed": seed,
        "layers": [{"name": x, "label": y} for x, y in zip(layers, labels, strict=True)],
        "runs": [],
        "numbers": {
            "features": features, "examples": 6, "distractors": 7, "catch": catch,
            "practice": practice,
        },
        "consent": {"version": "1", "text": "I am 18 or older, and I take part of my own will."},
        "debriefing": "Thank you. The pictures came from a vision network.",
        "codes": {"complete": "C0MPLETE", "screened_out": "SCREENED", "no_consent": "NOCONSENT"},
        "completion_url": "https://app.prolific.com/submissions/complete?cc={code}",
        "breaks": True,
        "min_window": [1024, 640],
        "analysis": {},
    }  # fmt: skip


def seen(study: Study, number: int = 0) -> list[Shown]:
    """The trials that a participant sees, in order."""
    return [shown for block in study.session(number) for shown in block.trials]


def begin(store: Store, **ids: str) -> tuple[str, str]:
    """A participant with consent: their token and id."""
    token, participant = store.start(**ids)
    store.consent(participant.id, "1", True)
    return token, participant.id


def give(
    store: Store, study: Study, id: str, at: int, question: str, place: int, number: int = 0
) -> list[Answer]:
    """Answer a question of trial number `at` by the choice at a place."""
    shown = seen(study, number)
    return store.answer(
        id, shown, trial=shown[at].trial.id, question=question, choice=shown[at].choices[place],
        reaction_ms=at * 10 + place, fingerprint="of the study",
    )  # fmt: skip


def answered(
    study: Study, folder: Path, people: list[dict[str, Any]], rng: np.random.Generator
) -> Store:
    """A store with sessions: each person's share of right answers, and what else befalls them."""
    store = Store(folder / "answers.sqlite3", create=True)
    for person in people:
        _, who = store.start(prolific_pid=person.get("pid", ""))
        if person.get("state") == "no_consent":
            store.consent(who.id, "1", False)
            continue
        store.consent(who.id, "1", True)
        shown = seen(study, who.number)
        for presented in shown[: person.get("until", len(shown))]:
            taken: list[str] = []
            for question in QUESTIONS:
                skill = person.get(presented.trial.kind, person.get(question, 1.0))
                right = rng.random() < skill
                wrong = [
                    x
                    for x in presented.choices
                    if x not in (*taken, presented.trial.mei, presented.trial.mii)
                ]
                choice = presented.trial.answer(question) if right else wrong[0]
                store.answer(
                    who.id, shown, trial=presented.trial.id, question=question, choice=choice,
                    reaction_ms=person.get("ms", 3000),
                )  # fmt: skip
                taken.append(choice)
        total = len(QUESTIONS) * len(shown)
        if person.get("state", "complete") != "started":
            store.end(who.id, person.get("state", "complete"), answers=total)
    return store


def as_json(results: Results) -> Any:
    """An analysis as analysis.json holds it."""
    return json.loads(to_json(results))
