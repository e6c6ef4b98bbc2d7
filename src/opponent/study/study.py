"""A study's folder: what is asked of people, and in which order.

    STUDY/study.json       title, seed, layers, where the features come from, texts, analysis
    STUDY/trials.parquet   one row a trial, with the right answers
    STUDY/stimuli/ID.png   the pictures; nothing about them tells which answer is right
    STUDY/sheet.html       every trial, for the eye of who runs the study
    STUDY/answers.sqlite3  what participants did

Source: paper, appendix B.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from opponent.core.errors import RunError
from opponent.storage.files import whole, write_text

FORMAT = 1
KINDS = ("practice", "catch", "trial")
# What participants are asked in each trial, in this order.
QUESTIONS = ("mei", "mii")
# The settings that every study has, and that readers may count on.
SETTINGS = (
    "format", "title", "seed", "layers", "runs", "numbers", "consent", "debriefing", "codes",
    "completion_url", "breaks", "min_window", "analysis",
)  # fmt: skip
_TRIAL, _STIMULUS = re.compile("[0-9a-f]{12}"), re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial: what is shown, and what is right.

    Args:
        id: opaque, 12 hexadecimal digits.
        kind: 'practice', 'catch' or 'trial'; in a catch trial the MEI stands among the examples.
        layer: of the network.
        feature: its label.
        examples: stimuli that excite the feature.
        choices: the stimuli to choose from; their order here tells the answers, so it is not shown.
        mei, mii: of the choices the one that excites the feature most, and the one that inhibits
            it most.
    Source: paper, appendix B.
    """

    id: str
    kind: str
    layer: str
    feature: str
    examples: tuple[str, ...]
    choices: tuple[str, ...]
    mei: str
    mii: str

    def __post_init__(self) -> None:
        """Refuse what no participant could answer."""
        shown = (*self.examples, *self.choices)
        problem = None
        if not _TRIAL.fullmatch(self.id):
            problem = "its id is not 12 hexadecimal digits"
        elif self.kind not in KINDS:
            problem = f"its kind is {self.kind!r}, not one of {', '.join(KINDS)}"
        elif not all(_STIMULUS.fullmatch(x) for x in shown):
            problem = "a stimulus' id is not 16 hexadecimal digits"
        elif len(set(self.choices)) < len(self.choices) or not self.examples:
            problem = "a choice stands there twice, or there is no example"
        elif self.mei == self.mii or not {self.mei, self.mii} <= set(self.choices):
            problem = "MEI and MII are not two of its choices"
        if problem:
            raise ValueError(f"trial {self.id!r} ({self.layer}, {self.feature}): {problem}")

    def answer(self, question: str) -> str:
        """The stimulus that is right: the MEI to 'mei', the MII to 'mii'."""
        return {"mei": self.mei, "mii": self.mii}[question]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A trial as one participant sees it: examples and choices in the order shown."""

    trial: Trial
    examples: tuple[str, ...]
    choices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Trials that follow each other: of one layer, or those to practise with ('practice')."""

    layer: str
    trials: tuple[Shown, ...]


class Study:
    """A study's folder, open for reading.

    Args:
        folder: as `opponent experiment build` makes it.
    Raises:
        RunError: it is no study, unfinished, damaged, or of another version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "study.json"
        if not path.is_file():
            raise RunError(
                f"{self.folder} is no study: it has no study.json; `opponent experiment build` "
                "makes one, and the same command again finishes one that was interrupted"
            )
        try:
            self.settings: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            missing = [name for name in SETTINGS if name not in self.settings]
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{path} is damaged: {error}") from error
        if missing:
            raise RunError(f"{path} lacks {', '.join(missing)}")
        if self.settings["format"] != FORMAT:
            raise RunError(
                f"{path} has format {self.settings['format']}, this version of opponent reads "
                f"format {FORMAT}; build the study again"
            )
        self._check()

    @classmethod
    def open(cls, folder: str | Path) -> "Study":
        """The study in a folder; `Study(folder)` by another name."""
        return cls(folder)

    def _check(self) -> None:
        layers = self.layers
        for trial in self.trials:
            if trial.layer not in layers:
                raise RunError(
                    f"{self.folder}: trial {trial.id} is of layer {trial.layer!r}, but study.json "
                    f"names {', '.join(layers)}"
                )
            for stimulus in (*trial.examples, *trial.choices):
                if not self.stimulus(stimulus).is_file():
                    raise RunError(
                        f"{self.folder} is incomplete: {self.stimulus(stimulus).name} of trial "
                        f"{trial.id} is not there; give the same `opponent experiment build` again"
                    )
        if len(self._by_id) < len(self.trials):
            raise RunError(f"{self.folder}: two trials have the same id")

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers' names, from the first to the last of the network."""
        return tuple(each["name"] for each in self.settings["layers"])

    def label(self, layer: str) -> str:
        """What a layer is called in figures, such as 'early'."""
        return next(str(x["label"]) for x in self.settings["layers"] if x["name"] == layer)

    @cached_property
    def table(self) -> pa.Table:
        """`trials.parquet`: the trials, and what is known of each stimulus.

        Raises:
            RunError: it is missing or damaged.
        """
        path = self.folder / "trials.parquet"
        try:
            return pq.read_table(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise RunError(f"{path} is damaged or missing: {reason}") from error

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, practice and catch trials too.

        Raises:
            RunError: the table is damaged.
        """
        names = [field.name for field in fields(Trial) if field.name != "id"]
        try:
            found = []
            for row in self.table.select(["trial", *names]).to_pylist():
                values: dict[str, Any] = {
                    k: tuple(v) if isinstance(v := row[k], list) else v for k in names
                }
                found.append(Trial(id=row["trial"], **values))
            return tuple(found)
        except (LookupError, TypeError, ValueError) as error:
            raise RunError(f"{self.folder / 'trials.parquet'} is damaged: {error}") from error

    @cached_property
    def _by_id(self) -> dict[str, Trial]:
        return {trial.id: trial for trial in self.trials}

    def trial(self, id: str) -> Trial:
        """The trial with that id.

        Raises:
            LookupError: there is none.
        """
        if id not in self._by_id:
            raise LookupError(f"{self.folder} has no trial {id!r}")
        return self._by_id[id]

    @cached_property
    def stimuli(self) -> frozenset[str]:
        """The ids of all stimuli that a trial shows."""
        return frozenset(x for trial in self.trials for x in (*trial.examples, *trial.choices))

    def stimulus(self, id: str) -> Path:
        """A stimulus' file.

        Raises:
            LookupError: no trial shows a stimulus of that id.
        """
        if id not in self.stimuli:
            raise LookupError(f"{self.folder} has no stimulus {id!r}")
        return self.folder / "stimuli" / f"{id}.png"

    def session(self, number: int) -> tuple[Block, ...]:
        """What the participant of that number sees, the same each time: practice, then the layers.

        The order of layers, of trials in a layer and of pictures in a trial are drawn for each
        participant from the study's seed.

        Args:
            number: in order of arrival, from 0.
        Raises:
            ValueError: a negative number.
        """
        if number < 0:
            raise ValueError(f"participants are numbered from 0, got {number}")
        blocks = []
        practice = [trial for trial in self.trials if trial.kind == "practice"]
        if practice:
            blocks.append(("practice", practice))
        for layer in self._shuffled(self.layers, number, "layers"):
            trials = [x for x in self.trials if x.layer == layer and x.kind != "practice"]
            order = self._shuffled([x.id for x in trials], number, "trials")
            blocks.append((layer, [self.trial(id) for id in order]))
        return tuple(
            Block(layer=layer, trials=tuple(self._shown(trial, number) for trial in trials))
            for layer, trials in blocks
        )

    def _shown(self, trial: Trial, number: int) -> Shown:
        examples = self._shuffled(trial.examples, number, f"examples {trial.id}")
        choices = self._shuffled(trial.choices, number, f"choices {trial.id}")
        return Shown(trial=trial, examples=examples, choices=choices)

    def _shuffled(self, items: Sequence[str], number: int, what: str) -> tuple[str, ...]:
        """A random order that no version of a library of random numbers can change."""

        def key(item: str) -> bytes:
            text = json.dumps([self.settings["seed"], number, what, item])
            return hashlib.sha256(text.encode()).digest()

        return tuple(sorted(items, key=key))

    def fingerprint(self) -> str:
        """SHA-256 of study.json and trials.parquet, in hexadecimal.

        The names of the stimuli are made of their pixels, so that it stands for them too.
        """
        digest = hashlib.sha256()
        for name in ("study.json", "trials.parquet"):
            data = (self.folder / name).read_bytes()
            digest.update(f"{name} {len(data)}\n".encode())
            digest.update(data)
        return digest.hexdigest()


def write_study(
    folder: Path,
    settings: Mapping[str, Any],
    trials: Sequence[Trial],
    more: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write a study's trials and then its settings, which make it one; the stimuli come before.

    Args:
        folder: of the study.
        settings: all of `SETTINGS`.
        trials: the trials.
        more: further columns, one value a trial.
    Raises:
        ValueError: settings are missing.
    """
    missing = [name for name in SETTINGS if name not in settings]
    if missing:
        raise ValueError(f"a study's settings lack {', '.join(missing)}")
    columns: dict[str, Any] = {
        "trial" if field.name == "id" else field.name: [
            list(value) if isinstance(value := getattr(trial, field.name), tuple) else value
            for trial in trials
        ]
        for field in fields(Trial)
    }
    with whole(folder / "trials.parquet") as part:
        table = pa.table(columns | {key: list(values) for key, values in (more or {}).items()})
        pq.write_table(table, part, compression="zstd", write_page_checksum=True)
    text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    write_text(folder / "study.json", text)
