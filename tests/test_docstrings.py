"""What `help()` says: all arguments, what comes back, and an example for each public name."""

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

import opponent
from opponent import plots

_SECTIONS = ("Args", "Returns", "Raises", "Source", "Yields")
# From this number of parameters on, a function outside the public ones documents them too.
_MANY = 3


def _modules() -> list[ModuleType]:
    names = [module.name for module in pkgutil.walk_packages(opponent.__path__, "opponent.")]
    return [importlib.import_module(name) for name in names if name != "opponent.__main__"]


def _text(thing: object) -> str:
    """The docstring of the thing itself; a dataclass without one gets one that is not ours."""
    doc = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
    return inspect.cleandoc(doc or "")


def _section(text: str, name: str) -> str | None:
    """The indented lines under a heading, or what stands beside it."""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(f"{name}:")]
    if not starts:
        return None
    inside = [lines[starts[0]].removeprefix(f"{name}:")]
    for line in lines[starts[0] + 1 :]:
        if not line.startswith(" "):
            break
        inside.append(line)
    return "\n".join(inside)


def _documented(text: str) -> set[str]:
    """The names that an `Args:` section describes."""
    body = inspect.cleandoc(_section(text, "Args") or "")
    heads = [line.partition(":")[0] for line in body.splitlines() if not line.startswith(" ")]
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


def _parameters(thing: Callable[..., object]) -> list[str]:
    return [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]


def _takes_arguments(kind: type) -> bool:
    """Whether people make the class themselves: not an enumeration, a protocol or an error."""
    own_error = issubclass(kind, BaseException) and "__init__" not in vars(kind)
    members = hasattr(kind, "__members__") or getattr(kind, "_is_protocol", False)
    return not (own_error or members)


def _methods(kind: type) -> Iterator[tuple[str, object]]:
    """A class' own public methods and properties, and those of the package that it inherits."""
    for name, kept in inspect.getmembers_static(kind):
        if name.startswith("_"):
            continue
        value = kept.__func__ if isinstance(kept, classmethod | staticmethod) else kept
        value = getattr(value, "func", value)  # of a cached property
        value = value.fget if isinstance(value, property) else value
        if inspect.isfunction(value) and value.__module__.startswith("opponent"):
            is_property = not isinstance(kept, classmethod | staticmethod) and value is not kept
            yield name, property(value) if is_property else value


def _public() -> dict[str, object]:
    """Every public name, and the figures and pages."""
    things: dict[str, object] = {name: getattr(opponent, name) for name in opponent.__all__}
    things |= {
        f"plots.{name}": getattr(plots, name)
        for name in plots.__all__
        if callable(getattr(plots, name))
    }
    for module in _modules():
        if module.__name__.startswith(("opponent.plots.", "opponent.reports.")):
            room = module.__name__.removeprefix("opponent.").partition(".")[0]
            things |= {
                f"{room}.{name}": value
                for name, value in vars(module).items()
                if re.match(r"plot_|write_|run_|\w+_figure$", name) and inspect.isfunction(value)
                if value.__module__ == module.__name__
            }
    return things


PUBLIC = _public()
CALLABLES = {
    f"{name}.{method}" if method else name: value
    for name, thing in PUBLIC.items()
    for method, value in [("", thing), *(_methods(thing) if inspect.isclass(thing) else ())]
}


@pytest.mark.parametrize("name", CALLABLES)
def test_public_arguments_and_results_are_documented(name: str) -> None:
    thing = CALLABLES[name]
    text = _text(thing.fget if isinstance(thing, property) else thing)
    assert text, f"{name} has no docstring"
    assert "Args as" not in text, f"{name} sends its reader elsewhere for its arguments"
    if isinstance(thing, property):
        return
    assert callable(thing)
    if not inspect.isclass(thing) or _takes_arguments(thing):
        missing = [x for x in _parameters(thing) if x not in _documented(text)]
        assert not missing, f"{name} does not document {', '.join(missing)}"
    if inspect.isclass(thing) or inspect.signature(thing).return_annotation is None:
        return
    summary = re.split(rf"^(?:{'|'.join(_SECTIONS)}):|^>>>", text, maxsplit=1, flags=re.M)[0]
    one_line = "." in name and not name.startswith(("plots.", "reports."))
    one_line = one_line and len(summary.strip().splitlines()) == 1
    assert one_line or _section(text, "Returns"), f"{name} does not say what it returns"


@pytest.mark.parametrize("name", opponent.__all__)
def test_every_public_name_has_an_example(name: str) -> None:
    text = _text(getattr(opponent, name))
    assert re.search(r"^>>> ", text, re.M), f"{name} has no example"
    assert "+SKIP" not in text, f"the example of {name} does not run"


@pytest.mark.parametrize("name", CALLABLES)
def test_no_public_signature_says_any(name: str) -> None:
    thing = CALLABLES[name]
    function = thing.fget if isinstance(thing, property) else thing
    if inspect.isclass(function) and not _takes_arguments(function):
        return
    assert callable(function)
    signature = inspect.signature(function)
    annotations = {x.name: x.annotation for x in signature.parameters.values()}
    annotations["what it returns"] = signature.return_annotation
    loose = [x for x, kind in annotations.items() if re.search(r"\bAny\b", _written(kind))]
    assert not loose, f"{name} says Any of {', '.join(loose)}"


def _written(annotation: object) -> str:
    """An annotation as text, with the types that its aliases stand for."""
    if annotation is typing.Any:
        return "Any"
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _documentable() -> dict[str, Callable[..., object]]:
    """Functions, classes and methods of all modules, by full name."""
    things: dict[str, Callable[..., object]] = {}
    for module in _modules():
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", None) != module.__name__ or not callable(thing):
                continue
            things[f"{module.__name__}.{name}"] = thing
            if inspect.isclass(thing):
                for method, value in vars(thing).items():
                    value = getattr(value, "__func__", value)
                    if inspect.isfunction(value) and value.__module__ == module.__name__:
                        things[f"{module.__name__}.{name}.{method}"] = value
    return things


def test_arguments_are_documented_in_full_or_not_at_all() -> None:
    wrong = []
    for name, thing in _documentable().items():
        text = _text(thing)
        if _section(text, "Args") is not None:
            missing = [x for x in _parameters(thing) if x not in _documented(text)]
            wrong += [f"{name}: {', '.join(missing)}"] if missing else []
    assert not wrong


def test_functions_of_many_arguments_document_them() -> None:
    wrong = []
    for name, thing in _documentable().items():
        hidden = any(word.startswith("_") for word in name.split(".")) or ".cli." in name
        if hidden or (inspect.isclass(thing) and not _takes_arguments(thing)):
            continue
        text = _text(thing)
        if len(_parameters(thing)) >= _MANY and "Args:" not in text and "Args as" not in text:
            wrong.append(name)
    assert not wrong
