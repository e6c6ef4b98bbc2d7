"""Objects of the user's own by name: 'module:PACKAGE.MODULE:NAME'."""

import sys
from importlib import import_module
from pathlib import Path

PREFIX = "module:"


def names_object(text: str) -> bool:
    """Whether a text names an object of the user's own."""
    return text.startswith(PREFIX)


def load_object(text: str) -> object:
    """The object that 'module:PACKAGE.MODULE:NAME' names.

    The module is looked for where Python looks, and in the current folder.

    Raises:
        ValueError: the text does not have that form, or there is no such module or name.
    """
    package, _, name = text.removeprefix(PREFIX).rpartition(":")
    if not names_object(text) or not package or package.startswith(".") or not name:
        raise ValueError(f"{text!r} must read module:PACKAGE.MODULE:NAME")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(f"{text!r}: {error}; run where Python can import it") from error
    try:
        value: object = getattr(module, name)
    except AttributeError as error:
        raise ValueError(f"{text!r}: {error}") from error
    return value
