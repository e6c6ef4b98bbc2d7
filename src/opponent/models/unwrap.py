"""The module inside what wraps one, and a word on what has no layers that can be read."""

from torch import export, jit, nn

# The rooms of torch whose modules compute with whole numbers.
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap(module: object) -> nn.Module:
    """The module whose layers are read: without what `torch.compile` and DataParallel put around.

    What is given stays as it is; both hold the same parameters.

    Args:
        module: a module, or a wrapper around one.
    Returns:
        The module inside; itself where nothing is around it.
    Raises:
        ValueError: no module, or one whose layers cannot be read: TorchScript, exported, quantised.
    """
    if isinstance(module, export.ExportedProgram | export.UnflattenedModule):
        raise ValueError(
            "an exported program has lost its layers; hand over the nn.Module that was exported"
        )
    if not isinstance(module, nn.Module):
        raise ValueError(f"a network is made from an nn.Module, not from {type(module).__name__}")
    inner = _inside(module)
    while inner is not None:
        module, inner = inner, _inside(inner)
    for name, part in module.named_modules():
        where = f"its layer {name!r}" if name else "it"
        if isinstance(part, jit.ScriptModule):
            raise ValueError(
                f"{type(module).__name__} cannot be read: {where} is TorchScript, which runs "
                "outside Python; hand over the nn.Module that was scripted or traced"
            )
        if type(part).__module__.startswith(_QUANTISED):
            raise ValueError(
                f"{type(module).__name__} has no gradients: {where} is quantised "
                f"({type(part).__name__}); hand over the model before it was quantised"
            )
    return module


def _inside(module: nn.Module) -> nn.Module | None:
    """What a wrapper wraps; None for all other modules."""
    if isinstance(module, _PARALLEL):
        inner: nn.Module = module.module
        return inner
    # The class of compiled modules takes seconds to import.
    return dict(module.named_children()).get("_orig_mod")
