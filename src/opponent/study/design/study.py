"""A study's folder: its trials, and the order in which each participant sees them.

    STUDY/study.json       title, seed, layers, scans, texts, plan of the analysis
    STUDY/trials.parquet   one row a trial, with the right answers
    STUDY/stimuli/ID.png   the pictures; nothing about them reveals the right answer
    STUDY/sheet.html       every trial with its answers, for those who run the study
    STUDY/answers.sqlite3  participants and their answers

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
from opponent.core.text import one_line
from opponent.storage.files import atomic_write, write_text
from opponent.storage.tables import TEXT, TEXTS, read_table
from opponent.study.design.settings import Settings, read_settings, to_json

KINDS = ("practice", "catch", "trial")
_TRIAL, _STIMULUS = re.compile("[0-9a-f]{12}"), re.compile("[0-9a-f]{16}")


# What makes a study.
COMMAND = "opponent experiment build"
# What the columns of trials.parquet hold that participants' pages need.
_COLUMNS = {
    **dict.fromkeys(("trial", "kind", "layer", "feature", "mei", "mii"), TEXT),
    **dict.fromkeys(("examples", "choices"), TEXTS),
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial: its pictures, and which are right.

    Args:
        id: 12 hexadecimal digits.
        kind: 'practice', 'catch' or 'trial'. In a catch trial the MEI is among the examples,
            by another id.
        layer: of the network.
        feature: its label.
        examples: ids of stimuli that excite the feature.
        choices: ids of the stimuli to choose from. Their order here reveals the answers, so it is
            never shown.
        mei, mii: the choices that excite and inhibit the feature most.
    Raises:
        ValueError: no participant could answer the trial.
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
        """Refuse a trial that no participant could answer."""
        shown = (*self.examples, *self.choices)
        problem = None
        if not _TRIAL.fullmatch(self.id):
            problem = "its id is not 12 hexadecimal digits"
        elif self.kind not in KINDS:
            problem = f"its kind is {self.kind!r}, not one of {', '.join(KINDS)}"
        elif not all(_STIMULUS.fullmatch(x) for x in shown):
            problem = "a stimulus' id is not 16 hexadecimal digits"
        elif len(set(self.choices)) < len(self.choices):
            problem = "a choice stands there twice"
        elif not self.examples:
            problem = "there is no example"
        elif self.mei == self.mii or not {self.mei, self.mii} <= set(self.choices):
            problem = "MEI and MII are not two of its choices"
        if problem:
            raise ValueError(f"trial {self.id!r} ({self.layer}, {self.feature}): {problem}")

    def answer(self, question: str) -> str:
        """The right answer.

        Args:
            question: 'mei' or 'mii'.
        Returns:
            The stimulus that is the MEI or the MII.
        """
        return {"mei": self.mei, "mii": self.mii}[question]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A trial as one participant sees it.

    Args:
        trial: the trial.
        examples: ids of the examples, in the order shown.
        choices: ids of the choices, in the order shown.
    """

    trial: Trial
    examples: tuple[str, ...]
    choices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive trials of one layer, or the trials to practise with ('practice')."""

    layer: str
    trials: tuple[Shown, ...]


class Study:
    """A study's folder, open for reading.

    Args:
        folder: made by `opponent experiment build`.
    Raises:
        RunError: the folder is no study, or a study that is unfinished, damaged or of another
            format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "study.json"
        if not path.is_file():
            raise RunError(
                f"{self.folder} is no study: it has no study.json; `opponent experiment build` "
                "makes one, and the same command again finishes one that was interrupted"
            )
        self.settings: Settings = read_settings(path)
        self._check()

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
        """The layers' names, from the network's first to its last."""
        return tuple(layer.name for layer in self.settings.layers)

    def label(self, layer: str) -> str:
        """The label of a layer in figures, such as 'early'."""
        return next(x.label for x in self.settings.layers if x.name == layer)

    @cached_property
    def table(self) -> pa.Table:
        """`trials.parquet`: the trials, and what is known of their stimuli.

        Raises:
            RunError: the file is missing or damaged.
        """
        return read_table(self.folder / "trials.parquet", COMMAND, _COLUMNS, others=True)

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, among them those to practise with and the catch trials.

        Raises:
            RunError: the table is damaged.
        """
        names = [field.name for field in fields(Trial) if field.name != "id"]
        try:
            trials = []
            for row in self.table.select(["trial", *names]).to_pylist():
                values: dict[str, Any] = {
                    k: tuple(v) if isinstance(v := row[k], list) else v for k in names
                }
                trials.append(Trial(id=row["trial"], **values))
            return tuple(trials)
        except (LookupError, TypeError, ValueError) as error:
            path, reason = self.folder / "trials.parquet", one_line(error)
            raise RunError(f"{path} is damaged: {reason}") from error

    @cached_property
    def _by_id(self) -> dict[str, Trial]:
        return {trial.id: trial for trial in self.trials}

    def trial(self, id: str) -> Trial:
        """The trial of an id.

        Args:
            id: 12 hexadecimal digits.
        Raises:
            LookupError: the study has no such trial.
        """
        if id not in self._by_id:
            raise LookupError(f"{self.folder} has no trial {id!r}")
        return self._by_id[id]

    @cached_property
    def stimuli(self) -> frozenset[str]:
        """The ids of all stimuli that a trial shows."""
        return frozenset(x for trial in self.trials for x in (*trial.examples, *trial.choices))

    def stimulus(self, id: str) -> Path:
        """The file of a stimulus.

        Args:
            id: 16 hexadecimal digits.
        Raises:
            LookupError: no trial shows such a stimulus.
        """
        if id not in self.stimuli:
            raise LookupError(f"{self.folder} has no stimulus {id!r}")
        return self.folder / "stimuli" / f"{id}.png"

    def session(self, number: int) -> tuple[Block, ...]:
        """What a participant sees, the same each time: trials to practise with, then the layers.

        The orders of layers, of a layer's trials and of a trial's pictures are random, drawn for
        each participant from the study's seed.

        Args:
            number: of the participant, in order of arrival, from 0.
        Returns:
            Blocks of trials in the order shown.
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
        """A random order that does not depend on the version of a random number library."""

        def key(item: str) -> bytes:
            text = json.dumps([self.settings.seed, number, what, item])
            return hashlib.sha256(text.encode()).digest()

        return tuple(sorted(items, key=key))

    def fingerprint(self) -> str:
        """SHA-256 of study.json and trials.parquet, in hexadecimal.

        The ids of stimuli are hashes of their pixels, so that it stands for the pictures too.
        """
        digest = hashlib.sha256()
        for name in ("study.json", "trials.parquet"):
            data = (self.folder / name).read_bytes()
            digest.update(f"{name} {len(data)}\n".encode())
            digest.update(data)
        return digest.hexdigest()


def write_study(
    folder: Path,
    settings: Settings,
    trials: Sequence[Trial],
    more: Mapping[str, Sequence[object]] | None = None,
) -> None:
    """Write a study's trials, and then its settings, which make the folder a study.

    The stimuli are to be written before.

    Args:
        folder: of the study.
        settings: of the study.
        trials: its trials.
        more: further columns of trials.parquet, one value a trial.
    """
    columns: dict[str, object] = {
        "trial" if field.name == "id" else field.name: [
            list(value) if isinstance(value := getattr(trial, field.name), tuple) else value
            for trial in trials
        ]
        for field in fields(Trial)
    }
    with atomic_write(folder / "trials.parquet") as path:
        table = pa.table(columns | {key: list(values) for key, values in (more or {}).items()})
        pq.write_table(table, path, compression="zstd", write_page_checksum=True)
    write_text(folder / "study.json", to_json(settings, ensure_ascii=False))
