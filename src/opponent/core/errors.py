"""What can go wrong because of what was given."""


class Unreadable(Exception):
    """An image that cannot be read.

    Args:
        reason: why, in one line.

    >>> import opponent, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "broken.png")
    ...     _ = file.write_bytes(b"no picture")
    ...     try:
    ...         opponent.attribute("inceptionv1-small", file, "mixed3b:189", "mixed3a")
    ...     except opponent.Unreadable as error:
    ...         print(error.reason.removeprefix(folder))
    /broken.png cannot be read: not an image
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RunError(RuntimeError):
    """A folder of results that is missing, unfinished, damaged, or of another question.

    >>> import opponent
    >>> try:
    ...     opponent.Run("no-such-folder")
    ... except opponent.RunError as error:
    ...     print(error)
    no-such-folder is no run folder: it has no manifest.json; `opponent scan` makes one
    """


class Changed(RunError):
    """An image whose content is another than it was when it was scanned."""


class UnknownGeometry(RuntimeError):
    """The network does something that makes it impossible to say what a position depends on."""


class UnknownLayout(ValueError):
    """A layer of which it is not known which axis is which, or an output with other axes."""


class IndependentFeature(ValueError):
    """A feature that does not depend on the layer that it is to be explained through."""


class EmptyTarget(ValueError):
    """Nothing excites, or inhibits, the feature in an image: there is no direction to invert.

    >>> import opponent, torch
    >>> network = opponent.load()
    >>> nothing = torch.zeros(1, 128, 5, 5)
    >>> try:
    ...     opponent.invert_attribution(
    ...         network, nothing, "mixed3b:189", "mixed3a", side="inhibition")
    ... except opponent.EmptyTarget as error:
    ...     print(str(error).partition(" in image")[0])
    nothing inhibits mixed3b:189@7,7 through 'mixed3a'
    """


# How PyTorch and Python say, in errors of other kinds, that there was no memory.
_NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "can't start new thread")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory, or room for another thread, was missing.

    Args:
        error: any; PyTorch's of a GPU's memory is known by its name, for it need not be loaded.
    """
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or any(words in str(error) for words in _NO_MEMORY)
