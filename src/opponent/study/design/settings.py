"""`study.json` and `simulated.json`: their fields, typed and validated."""

import json
import re
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from opponent.core.errors import RunError
from opponent.core.text import one_line

T = TypeVar("T")

FORMAT = 1
# The questions of each trial, in the order in which participants answer them.
QUESTIONS = ("mei", "mii")

Count = Annotated[int, Meta(ge=0)]


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How answers will be analysed, settled before the first: `analysis` in study.json.

    Args:
        question: the question whose answers are tested.
        catch_share: smallest share of the catch trials' MEIs that a participant must choose to be
            analysed. With three catch trials, a participant who guesses passes in 3.4 % of cases.
        min_median_ms: smallest median reaction time of a participant who is analysed. Looking at
            nine pictures takes longer.
        draws: of the bootstrap.
        level: of the intervals.
        alpha: of the test.
        power_for: numbers of participants for which the test's power is simulated.
        power_draws: simulated studies for each of these numbers.
    Raises:
        ValueError: another question.
    Source: the paper gives no exclusions and no such plan; these are ours.
    """

    question: str = "mii"
    catch_share: Annotated[float, Meta(ge=0, le=1)] = 0.6
    min_median_ms: Annotated[int, Meta(ge=0)] = 1000
    draws: Annotated[int, Meta(ge=100)] = 10_000
    level: Annotated[float, Meta(ge=0.5, le=0.9999)] = 0.95
    alpha: Annotated[float, Meta(ge=0.0001, le=0.5)] = 0.05
    power_for: tuple[Annotated[int, Meta(ge=2)], ...] = (12, 24, 48, 96)
    power_draws: Annotated[int, Meta(ge=1)] = 1000

    def __post_init__(self) -> None:
        """Refuse a question that participants are not asked."""
        if self.question not in QUESTIONS:
            raise ValueError(f"question is 'mei' or 'mii', not {self.question!r}")


class LayerLabel(Struct, frozen=True, kw_only=True):
    """A layer of the network, and its label in figures, such as 'early'."""

    name: str
    label: str


class ImageList(Struct, frozen=True, kw_only=True):
    """The images of a scan: their number, and the SHA-256 of their list."""

    count: Count
    sha256: str


class ScanRecord(Struct, frozen=True, kw_only=True):
    """A scan that trials were chosen from.

    Args:
        folder: the run folder.
        layer: the layer of its features.
        features: how many features it has.
        power: p of the features' activation, dot * cos^p.
        network: the network's name.
        weights_sha256: SHA-256 of the network's weights.
        images: what was scanned.
        versions: of the software that scanned.
    """

    folder: str
    layer: str
    features: Count
    power: int
    network: str
    weights_sha256: str
    images: ImageList
    versions: dict[str, str]


class Numbers(Struct, frozen=True, kw_only=True):
    """How many trials of each kind there are, and how many pictures a trial has.

    Args:
        features: features of a layer, one trial each.
        examples: examples of a trial.
        distractors: distractors of a trial.
        catch: catch trials of a layer.
        practice: trials to practise with.
    """

    features: Count
    examples: Count
    distractors: Count
    catch: Count
    practice: Count


class Consent(Struct, frozen=True, kw_only=True):
    """The text that participants agree to. Another text needs another version."""

    version: str | int | float
    text: str


class Codes(Struct, frozen=True, kw_only=True):
    """The recruiting service's completion codes; empty for none.

    Args:
        complete: of a session that was finished.
        screened_out: of one that could not be shown.
        no_consent: of one without consent.
    """

    complete: str | None = ""
    screened_out: str | None = ""
    no_consent: str | None = ""


class Settings(Struct, frozen=True, kw_only=True):
    """`study.json`: all about a study but its trials.

    Args:
        format: of the study's folder, `FORMAT`.
        title: of the page.
        seed: of the distractors, and of the orders that participants see.
        layers: from the network's first to its last.
        runs: the scans that the trials were chosen from.
        versions: of the software that built the study.
        numbers: of trials and pictures.
        consent: shown first.
        debriefing: shown last.
        codes: completion codes.
        completion_url: the address that participants return to, with '{code}' for the code; empty
            for none.
        breaks: whether participants may rest between layers.
        min_window: the smallest window, (width, height) in pixels.
        analysis: the plan.
    """

    format: int
    title: str
    seed: Annotated[int, Meta(ge=0)]
    layers: tuple[LayerLabel, ...]
    runs: tuple[ScanRecord, ...]
    versions: dict[str, str] = {}
    numbers: Numbers
    consent: Consent
    debriefing: str
    codes: Codes
    completion_url: str | None
    breaks: bool
    min_window: tuple[Count, Count]
    analysis: Plan


def unfinished(settings: Settings) -> list[str]:
    """What of `study.json` has still to be filled in before participants may see the study.

    Placeholders stand in square brackets. A completion code that is not wanted is null.

    Args:
        settings: of a study.
    """
    found = [
        f"{name} ({match[0]})"
        for name, text in (
            ("title", settings.title),
            ("consent", settings.consent.text),
            ("debriefing", settings.debriefing),
        )
        for match in re.finditer(r"\[[^\]]*\]", text)
    ]
    if settings.completion_url:
        codes = msgspec.to_builtins(settings.codes)
        found += [f"codes.{name}" for name, code in codes.items() if code == ""]
    return found


class SimulationRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`simulated.json`: all that determines a simulation's answers.

    Args:
        study_sha256: fingerprint of the study.
        participants: how many.
        skill: 'chance', 'perfect' or 'similarity'.
        seed: of the participants.
        versions: of the software.
        temperature, network, layer, weights_sha256: of the similarity observer.
    """

    study_sha256: str
    participants: int
    skill: str
    seed: int
    versions: dict[str, str]
    temperature: float | None = None
    network: str | None = None
    layer: str | None = None
    weights_sha256: str | None = None


class _Format(Struct):
    format: int


def read_settings(path: Path) -> Settings:
    """The settings of a study, validated.

    Args:
        path: of `study.json`.
    Raises:
        RunError: the file is damaged or of another format, or a field is missing or wrong.
    """
    # First, since another format may have other fields.
    format = _read(path, _Format).format
    if format != FORMAT:
        raise RunError(
            f"{path} has format {format}, this version of opponent reads format {FORMAT}; "
            "build the study again"
        )
    return _read(path, Settings)


def read_simulation(path: Path) -> SimulationRecord | None:
    """The record of a simulation; None where the file is missing, as in a study of people.

    Args:
        path: of `simulated.json`.
    Raises:
        RunError: the file is damaged, or a field is missing or wrong.
    """
    return _read(path, SimulationRecord) if path.is_file() else None


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.ValidationError as error:
        raise RunError(f"{path}: {in_words(error)}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def to_json(record: Struct, *, ensure_ascii: bool = True) -> str:
    """A record as an indented JSON text, its fields in their order.

    Args:
        record: what is written.
        ensure_ascii: whether other characters are escaped.
    Raises:
        ValueError: a number is not finite.
    """
    values = msgspec.to_builtins(record, enc_hook=_as_text)
    return json.dumps(values, indent=1, ensure_ascii=ensure_ascii, allow_nan=False) + "\n"


def _as_text(value: object) -> str:
    """A subclass of str as str: torch's version is one."""
    if isinstance(value, str):
        return str(value)
    raise NotImplementedError


def in_words(error: msgspec.ValidationError) -> str:
    """A validation error in one line: the field's path, and what is expected there.

    Args:
        error: of msgspec.

    >>> try:
    ...     msgspec.convert({"alpha": 2.0}, Plan)
    ... except msgspec.ValidationError as error:
    ...     print(in_words(error))
    alpha: expected float <= 0.5
    """
    problem, _, place = one_line(error).replace("`", "").partition(" - at ")
    problem = problem[:1].lower() + problem[1:]
    field = place.removeprefix("$").removeprefix(".")
    return f"{field}: {problem}" if field else problem
