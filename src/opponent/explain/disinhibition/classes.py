"""Which class each image is of, and what a network takes it for with some logits disinhibited."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Bool, Float, Int

from opponent.core.text import first_few
from opponent.models.network import Network
from opponent.models.registry import imagenet_classes

# How labels are asked for that folders and file names carry.
WORDNET = "wordnet"
UNKNOWN = -1


def read_labels(
    network: Network, layer: str, images: Sequence[str], labels: str
) -> Int[np.ndarray, " n"]:
    """The class of each image.

    Args:
        network: the network.
        layer: the logits.
        images: the images' ids.
        labels: 'wordnet': a folder or the file is called by ImageNet's WordNet id, whose place
            among the thousand sorted ids is the class. Or a CSV file with the columns image and
            class: an image's id, and a logit's number or the network's name for it.
    Returns:
        Numbers of logits; -1 where an image has no class.
    Raises:
        ValueError: no image has a class, a class that there is not, or a network of other classes
            than ImageNet's thousand.
        FileNotFoundError: there is no such file.
    """
    count = network.layer(layer).shape[0]
    if labels == WORDNET:
        if count != 1000:
            raise ValueError(
                f"{layer!r} has {count:,} units, and labels by WordNet ids are of ImageNet's "
                "1,000: give a CSV file of image,class"
            )
        numbers = {line[:9]: i for i, line in enumerate(imagenet_classes())}
        found = [_by_wordnet(image, numbers) for image in images]
        hint = "no folder or file is called by a WordNet id such as n07753592"
    else:
        table = _read_csv(Path(labels).expanduser(), network, count)
        files = [PurePath(image).name for image in images]
        # A file's name tells an image as far as no other of them has it.
        once = {name for name, count in Counter(files).items() if count == 1}
        found = [
            table.get(image, table.get(file, UNKNOWN) if file in once else UNKNOWN)
            for image, file in zip(images, files, strict=True)
        ]
        hint = f"{labels} names other images, such as {first_few(list(table), 2)}"
    if all(x == UNKNOWN for x in found):
        raise ValueError(f"none of {len(images):,} images has a class ({images[0]!r}, ...): {hint}")
    return np.array(found)


def _by_wordnet(image: str, numbers: dict[str, int]) -> int:
    parts = (part[:9] for part in reversed(PurePath(image).parts))
    return next((numbers[part] for part in parts if part in numbers), UNKNOWN)


def _read_csv(path: Path, network: Network, count: int) -> dict[str, int]:
    classes = network.classes or ()
    names = {name: i for i, name in enumerate(classes)}
    table = dict[str, int]()
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if not {"image", "class"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} has no columns image and class in its first line")
        for row in reader:
            text = (row["class"] or "").strip()
            if classes.count(text) > 1:
                several = [str(i) for i, name in enumerate(classes) if name == text]
                raise ValueError(
                    f"{path}: several classes are called {text!r} ({', '.join(several)}); give the "
                    "number"
                )
            named = names.get(text, UNKNOWN)
            number = int(text) if named == UNKNOWN and text.isdecimal() else named
            if not 0 <= number < count:
                raise ValueError(
                    f"{path}: {row['image']!r} is of class {text!r}; the network's classes are "
                    f"0 to {count - 1}" + (", or their names" if names else "")
                )
            table[str(row["image"])] = number
    return table


@dataclass(frozen=True, kw_only=True, eq=False)
class Classes:
    """Images, their classes, and the logits of some chosen classes beside the largest other one.

    Args:
        chosen: the chosen classes, as numbers of logits.
        names: of all classes, by number.
        labels: each image's class; -1 where it has none.
        rival: the largest logit that is not chosen.
        rival_class: whose it is.
    """

    chosen: tuple[int, ...]
    names: dict[int, str]
    labels: Int[np.ndarray, " n"]
    rival: Float[np.ndarray, " n"]
    rival_class: Int[np.ndarray, " n"]

    def name(self, number: int) -> str:
        """A class's name, with its number where another has the same; or its number alone."""
        name = self.names.get(number, str(number))
        alike = sum(x == name for x in self.names.values())
        return name if alike < 2 else f"{name} ({number})"

    @property
    def own(self) -> Bool[np.ndarray, " n"]:
        """Which images are of a chosen class."""
        own: Bool[np.ndarray, " n"] = np.isin(self.labels, self.chosen)
        return own

    def answer(self, logits: Float[np.ndarray, "n f"], among: str) -> Int[np.ndarray, " n"]:
        """The class of the largest logit.

        Args:
            logits: of the chosen classes.
            among: 'chosen' for those alone, or 'all'.
        """
        best: Int[np.ndarray, " n"] = np.array(self.chosen)[logits.argmax(1)]
        if among == "all":
            best = np.where(logits.max(1) >= self.rival, best, self.rival_class)
        return best

    def answers(
        self, before: Float[np.ndarray, "n f"], after: Float[np.ndarray, "n f"], replaced: str
    ) -> list[tuple[int | None, Int[np.ndarray, " n"]]]:
        """What the network takes the images for, among all classes.

        Args:
            before, after: the chosen logits with and without inhibition.
            replaced: 'together' for all chosen logits at once, or 'alone' for each by itself.
        Returns:
            Whose logit is replaced, None for all, and the answers.
        """
        if replaced == "together":
            return [(None, self.answer(after, "all"))]
        found = list[tuple[int | None, Int[np.ndarray, " n"]]]()
        for number, unit in enumerate(self.chosen):
            logits = before.copy()
            logits[:, number] = after[:, number]
            found.append((unit, self.answer(logits, "all")))
        return found

    def accuracy(
        self, before: Float[np.ndarray, "n f"], after: Float[np.ndarray, "n f"]
    ) -> list[dict[str, str | float | int]]:
        """Shares of images that are taken for what they are, with and without inhibition.

        Args:
            before, after: the chosen logits with and without inhibition.
        Returns:
            One row for each of: all chosen logits replaced, among the chosen and among all classes,
            and each alone; of images of the chosen classes, and of others where there are any.
        """
        others = (self.labels != UNKNOWN) & ~self.own
        groups = [("of the chosen classes", self.own), ("of other classes", others)]
        was = self.answer(before, "all")
        pairs: list[tuple[str, str, np.ndarray, np.ndarray]] = [
            ("all of them", "chosen", self.answer(before, "chosen"), self.answer(after, "chosen"))
        ]
        for replaced in ("together", "alone"):
            for unit, now in self.answers(before, after, replaced):
                pairs.append(("all of them" if unit is None else self.name(unit), "all", was, now))
        return [
            {
                "replaced": who,
                "among": among,
                "group": name,
                "images": int(group.sum()),
                "before": float((one == self.labels)[group].mean()),
                "after": float((other == self.labels)[group].mean()),
            }
            for who, among, one, other in pairs
            for name, group in groups
            # Among the chosen classes no image of another is right.
            if group.any() and (among == "all" or group is groups[0][1])
        ]

    def confusions(
        self, before: Float[np.ndarray, "n f"], after: Float[np.ndarray, "n f"]
    ) -> list[dict[str, str | int]]:
        """Which images are taken for a chosen class, and how many more without inhibition.

        Args:
            before, after: the chosen logits with and without inhibition.
        Returns:
            One row for each true class and answer that some image has; the newest first.
        """
        rows = list[dict[str, str | int]]()
        known = self.labels != UNKNOWN
        was = Counter(zip(self.labels[known], self.answer(before, "all")[known], strict=True))
        for replaced in ("together", "alone"):
            now = Counter[tuple[int, int]]()
            for unit, answers in self.answers(before, after, replaced):
                pairs = zip(self.labels[known], answers[known], strict=True)
                # With one replaced, only what is taken for that one says something of it.
                now.update(x for x in pairs if unit is None or x[1] == unit)
            for pair in sorted(set(was) | set(now), key=lambda x: (was[x] - now[x], x)):
                if pair[1] in self.chosen:
                    true, answer = (self.name(int(x)) for x in pair)
                    rows.append(
                        {"replaced": replaced, "true": true, "answer": answer,
                         "before": was[pair], "after": now[pair], "new": now[pair] - was[pair]}
                    )  # fmt: skip
        return rows

    def shares(
        self, before: Float[np.ndarray, "n f"], after: Float[np.ndarray, "n f"]
    ) -> tuple[Float[np.ndarray, "f f"], Float[np.ndarray, "f f"]]:
        """The shares of the images of each chosen class (rows) that are taken for each (columns).

        Args:
            before, after: the chosen logits with and without inhibition.
        Returns:
            All replaced at once, among the chosen classes; and for each column its logit replaced
            alone, among all classes. NaN for a class without images.
        """
        together = self.answer(after, "chosen")
        alone = [answers for _, answers in self.answers(before, after, "alone")]
        tables = np.full((2, len(self.chosen), len(self.chosen)), np.nan)
        for row, true in enumerate(self.chosen):
            where = self.labels == true
            for column, unit in enumerate(self.chosen):
                if where.any():
                    tables[0, row, column] = (together[where] == unit).mean()
                    tables[1, row, column] = (alone[column][where] == unit).mean()
        return tables[0], tables[1]
