"""What analysis.json holds."""

from msgspec import UNSET, Struct, UnsetType

from opponent.study.design.settings import Plan, ScanRecord, SimulationRecord

FORMAT = 1


class Participants(Struct, frozen=True, kw_only=True):
    """How many participants there were.

    Args:
        began: who began.
        analysed: whose answers are analysed.
        excluded: whose answers are not, by reason.
    """

    began: int
    analysed: int
    excluded: dict[str, int]


class AnswersOfLayer(Struct, frozen=True, kw_only=True):
    """The answers to one question in one layer: a bar of figure 10, and more.

    Args:
        answers: how many.
        right: how many of them are right.
        accuracy: the share of right answers; None without answers.
        low, high: its interval; None with fewer than two participants or features.
        chosen: the share of answers that were the MEI, the MII and a distractor.
        reaction_ms: quartiles.
        accuracy_where_open: of the MII, the accuracy where the first choice was not the MII; only
            there can it be found, with a chance of 1 in 8.
    """

    answers: int
    right: int
    accuracy: float | None
    low: float | None
    high: float | None
    chosen: dict[str, float | None]
    reaction_ms: tuple[float, float, float] | None
    accuracy_where_open: float | UnsetType | None = UNSET


class LayerResults(Struct, frozen=True, kw_only=True):
    """The answers in one layer.

    Args:
        layer: its name.
        label: what figures call it.
        mei: the answers to the question for the MEI.
        mii: the answers to the question for the MII.
    """

    layer: str
    label: str
    mei: AnswersOfLayer
    mii: AnswersOfLayer


class FeatureResults(Struct, frozen=True, kw_only=True):
    """A feature's share of right answers to either question.

    Args:
        layer: the feature's layer.
        feature: its label.
        mei: the share for the MEI; None without answers.
        mii: the share for the MII; None without answers.
    """

    layer: str
    feature: str
    mei: float | None
    mii: float | None


class Pair(Struct, frozen=True, kw_only=True):
    """A comparison of two layers.

    Args:
        layers: the first and the second.
        difference: of their accuracies.
        estimate, error, df, p, reason: as in `statistics.Contrast`.
    """

    layers: tuple[str, str]
    difference: float
    estimate: float | None
    error: float | None
    df: int | None
    p: float | None
    reason: str | None


class PlannedTest(Struct, frozen=True, kw_only=True):
    """The planned test of the first layer against the others, and other comparisons.

    Args:
        question: the question whose answers are tested.
        contrast: in words.
        estimate, error, df, p, reason: as in `statistics.Contrast`.
        difference, difference_low, difference_high: of the accuracies, with its interval.
        pairs: all comparisons of two layers.
        others: p-values of other tests; None where a test is not possible.
    """

    question: str
    contrast: str
    estimate: float | None
    error: float | None
    df: int | None
    p: float | None
    reason: str | None
    difference: float
    difference_low: float | None
    difference_high: float | None
    pairs: tuple[Pair, ...]
    others: dict[str, float | None]


class NoTest(Struct, frozen=True, kw_only=True):
    """Why there is no test."""

    question: str
    reason: str


class Power(Struct, frozen=True, kw_only=True):
    """The power of the test, simulated.

    Args:
        question: the question whose answers are tested.
        alpha: of the test.
        simulations: simulated studies for each number of participants.
        person_sd: sd of participants' log odds.
        power: by number of participants.
    """

    question: str
    alpha: float
    simulations: int
    person_sd: float
    power: dict[str, float]


class Results(Struct, frozen=True, kw_only=True):
    """All results of an analysis.

    Args:
        format: of analysis.json, `FORMAT`.
        title: of the study.
        study_sha256: fingerprint of the study.
        runs: the scans that its trials were chosen from.
        versions: of the software that analysed.
        seed: of the study.
        plan: of the analysis.
        participants: who is analysed.
        chance: accuracy of a participant who guesses, by question.
        layers: from the network's first to its last.
        features: in the order of the trials.
        test: of the first layer against the others.
        simulated: how the participants were simulated; None for people.
        power: of the test; None where there is no test.
    """

    format: int = FORMAT
    title: str
    study_sha256: str
    runs: tuple[ScanRecord, ...]
    versions: dict[str, str]
    seed: int
    plan: Plan
    participants: Participants
    chance: dict[str, float]
    layers: tuple[LayerResults, ...]
    features: tuple[FeatureResults, ...]
    test: PlannedTest | NoTest
    simulated: SimulationRecord | None
    power: Power | None
