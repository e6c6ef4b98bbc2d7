"""Commands about networks: which there are, and which layers one has."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from opponent.cli.application import START, app
from opponent.cli.opening import open_network
from opponent.cli.options import Model
from opponent.cli.output import new_table, out
from opponent.core.text import first_few

if TYPE_CHECKING:
    from opponent.models.network import Layer, Network


@app.command(rich_help_panel=START, epilog="Example: [bold]opponent models[/]")
def models() -> None:
    """List the models that can be named."""
    from opponent.models.catalogue import ADVICE, MODELS

    out.print(ADVICE)
    table = new_table("name", "what it is")
    for name, what in MODELS.items():
        table.add_row(name, what)
    out.print(table)


@app.command(
    rich_help_panel=START,
    epilog="Examples: [bold]opponent layers inceptionv1-small[/]; what to explain a feature of "
    "mixed3b through: [bold]opponent layers inceptionv1-small --target mixed3b --bottlenecks[/]",
)
def layers(
    model: Model,
    target: Annotated[
        str | None,
        typer.Option(metavar="LAYER", help="Only the layers before this one; default: all."),
    ] = None,
    bottlenecks: Annotated[
        bool, typer.Option("--bottlenecks", help="Only those that everything goes through.")
    ] = False,
) -> None:
    """List a model's layers: kind, channels, output size, stride, receptive field, bottlenecks.

    All that an image does to the target, or to the logits, goes through each bottleneck: explain
    features through these. Through a branch goes only a part. Outputs of activation functions and
    of blocks that join branches are marked. The receptive field is given as if the image had no
    border; 'whole' reaches over all of it. The last column says where a feature of the layer is
    read: at its output, where nothing is said.
    """
    network = open_network(model)
    from opponent.geometry.bottlenecks import after_activations, through_layers
    from opponent.models.network import LOGITS

    marks = {
        x.layer: "yes" if x.bottleneck else "a branch"
        for x in through_layers(network, target or LOGITS)[1:]
    }
    names = list(network.layers)
    if bottlenecks:
        names = [name for name, mark in marks.items() if mark == "yes"]
    elif target is not None:
        end = network.layers.target_point(target).order
        names = [name for name in names if network.layers.through_point(name).order < end]
    table = new_table(
        "name", "kind", "channels", "output", "stride", "receptive field", "bottleneck", "is read"
    )
    fields, after = _fields_and_strides(network), after_activations(network)
    for name in names:
        layer = network.layer(name)
        # Of several calls, the last has the layer's own name, and its number too.
        calls = {f"{name}#{k}": f"#{k} " for k in range(1, layer.calls + 1)} | {name: ""}
        marked = [number + marks[call] for call, number in calls.items() if call in marks]
        called = f" (called {layer.calls} times)" if layer.calls > 1 else ""
        channels, rows, columns = layer.shape
        output = " + ".join([f"{rows} x {columns}", *layer.tokens])
        table.add_row(
            name, layer.kind + called, str(channels), output,
            *fields.get(name.removesuffix(f"#{layer.calls}"), (_steps(layer), "unknown")),
            ", ".join(marked),
            _where_read(network, layer.name, after),
        )  # fmt: skip
    out.print(table)
    height, width = network.preprocessing.size
    about = (
        f"{network.name}, input {height} x {width} pixels; bottlenecks before {target or LOGITS}"
    )
    out.print(about, style="dim", markup=False)
    if not bottlenecks and target is None:
        _print_refused(network)


def _steps(layer: "Layer") -> str:
    """The steps of a layer's map over the image, where its receptive field is not known."""
    return "" if layer.placement is None else " x ".join(f"{x:g}" for x in layer.placement[2:])


def _print_refused(network: "Network") -> None:
    """The layers that cannot be read, by the reason."""
    by_reason = dict[str, list[str]]()
    for name, reason in network.layers.refused.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        listed = first_few(names)
        out.print(f"not readable: {listed}: {reason}", style="dim", markup=False, soft_wrap=True)


def _where_read(network: "Network", layer: str, after: Mapping[str, Sequence[str]]) -> str:
    """Where a feature of a layer is read, if not at the end of a sum."""
    if network.layers.is_activation(layer):
        return "before it acts"
    if layer in after:
        return f"after {', '.join(after[layer]) or 'its activation function'}"
    return ""


def _fields_and_strides(network: "Network") -> dict[str, tuple[str, str]]:
    """Each layer's stride and receptive field as people read them, where they can be told."""
    from opponent.core.errors import UnknownGeometry
    from opponent.geometry.receptive_field import field_and_stride, receptive_fields_by_layer

    try:
        extents = receptive_fields_by_layer(network)
    except UnknownGeometry:
        return {}
    height, width = network.preprocessing.size
    fields = {}
    for name, extent in extents.items():
        box, steps = field_and_stride(extent)
        stride = " x ".join(f"{x:g}" for x in steps) if all(steps) else ""
        field = f"{box.height} x {box.width}"
        if (box.height >= 2 * height and box.width >= 2 * width) or not all(steps):
            field += " (whole)"
        fields[name] = (stride, field)
    return fields
