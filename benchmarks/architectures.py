"""Networks of torchvision and timm with random weights, against a slow reference.

`python -m benchmarks.architectures` takes all of torchvision's classifiers and 77 families of
timm; `--only NAME …` takes some, and `--out FILE.md` writes the table, a row at a time: the same
command goes on after those that are there. Of each network three pairs of layers are attributed,
or refused with the reason. The reference hooks the two modules, runs an image beside its own copy,
and takes one backward pass.
"""

import argparse
import collections
import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import benchmarks.torchvision_operators  # noqa: F401
import opponent
from opponent import Feature, Network, Preprocessing
from opponent.core.errors import UnknownGeometry, UnknownLayout
from opponent.models.outputs import main_tensor, with_main_tensor

# The smallest member of each family; a size that is not in the name is that of `sizes`.
TIMM = (
    "beit_base_patch16_224", "botnet26t_256", "cait_xxs24_224", "coat_tiny", "coatnet_nano_rw_224",
    "convformer_s18", "convit_tiny", "convmixer_768_32", "convnext_atto", "convnextv2_atto",
    "crossvit_tiny_240", "cs3darknet_s", "davit_tiny", "deit_tiny_distilled_patch16_224",
    "densenet121", "dla34", "dpn48b", "eca_nfnet_l0", "edgenext_xx_small", "efficientformer_l1",
    "efficientformerv2_s0", "efficientnet_b0", "efficientvit_b0", "efficientvit_m0",
    "eva02_tiny_patch14_224", "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnet_050",
    "gmlp_ti16_224", "hardcorenas_a", "hgnet_tiny", "hiera_tiny_224", "hrnet_w18_small",
    "inception_next_tiny", "lambda_resnet26t", "lcnet_050", "levit_128s", "maxvit_pico_rw_256",
    "mixer_s32_224", "mnasnet_small", "mobilenetv3_small_050", "mobilenetv4_conv_small",
    "mobileone_s0", "mobilevit_xxs", "mobilevitv2_050", "mvitv2_tiny", "nest_tiny",
    "nextvit_small", "nf_resnet26", "pit_ti_224", "poolformer_s12", "pvt_v2_b0", "regnetx_002",
    "repghostnet_050", "repvit_m0_9", "resmlp_12_224", "resnest14d", "resnet10t", "rexnet_100",
    "seresnext26t_32x4d", "skresnet18", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "tiny_vit_5m_224", "tinynet_e", "tnt_s_patch16_224",
    "twins_pcpvt_small", "vgg11", "visformer_tiny", "vit_tiny_patch16_224",
    "vit_small_patch14_reg4_dinov2", "volo_d1_224", "vovnet39a", "xception41",
    "xcit_nano_12_p16_224",
)  # fmt: skip
# Above so many parameters, single precision; and double where the two differ, since rounding adds
# up in deep networks.
WIDE = 60_000_000
ROUNDING = {torch.float64: 1e-8, torch.float32: 2e-3}


def alive(module: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Weights and statistics with which activations neither vanish nor explode."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d) and layer.weight is not None:
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            layer.momentum = None
    for name, value in module.named_parameters():
        if name.rpartition(".")[2] in {"gamma", "gamma_1", "gamma_2", "layer_scale", "ls1", "ls2"}:
            nn.init.uniform_(value, 0.1, 0.5)
    for layer in module.modules():
        layer.training = isinstance(layer, nn.BatchNorm2d)
    with torch.no_grad():
        for seed in range(2):
            module(noise(2, size, next(module.parameters()).dtype, seed))
    return module.eval()


def noise(count: int, size: tuple[int, int], dtype: torch.dtype, seed: int) -> Tensor:
    """Images of noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *size, generator=generator).to(dtype)


def networks(only: list[str], done: set[str]) -> Iterator[tuple[str, nn.Module, tuple[int, int]]]:
    """The networks, by name, and the size of their images."""
    import timm
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    for name in [f"timm:{x}" for x in TIMM] + [f"torchvision:{x}" for x in names]:
        if (only and name not in only) or name in done:
            continue
        library, _, model = name.partition(":")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if library == "timm":
                module = timm.create_model(model)
                settings = module.pretrained_cfg
                size = settings["input_size"][1:]
                if not settings.get("fixed_input_size") and size[0] > 128:
                    size = (128, 160)
            else:
                more = {"init_weights": False} if model in {"googlenet", "inception_v3"} else {}
                module = torchvision.models.get_model(model, weights=None, **more)
                size = (107, 139) if model == "inception_v3" else (96, 128)
                size = (224, 224) if model.startswith(("vit", "maxvit")) else size
            if sum(x.numel() for x in module.parameters()) < WIDE:
                module = module.double()
            yield name, alive(module, size), size


def pairs(network: Network) -> Iterator[tuple[str, str]]:
    """Three targets, early to late, each with a layer some way before it."""
    names = [x for x in network.layers if network.layer(x).shape[0] > 1]
    for share in (0.35, 0.7, 1.0):
        target = round(share * (len(names) - 1))
        yield names[target], names[round(0.7 * target)]


def reference(
    network: Network, x: Tensor, target: str, through: str, feature: Feature
) -> tuple[Tensor, Tensor]:
    """The activation of one image, and the values of S in ascending order."""
    layers, module = network.layers, network.module
    kept: dict[str, Tensor] = {}
    ends, begins = layers.target_point(target), layers.through_point(through)

    def leaf(_module: nn.Module, _inputs: object, output: object) -> object:
        counts[through] += 1
        if counts[through] != begins.call:
            return None
        tensor = main_tensor(output)
        assert tensor is not None
        kept["through"] = tensor.detach().clone().requires_grad_()
        return with_main_tensor(output, kept["through"].clone())

    def end(_module: nn.Module, given: tuple[Tensor, ...], output: object = None) -> None:
        counts["end"] += 1
        if counts["end"] == ends.call:
            tensor = given[0] if ends.at == "input" else main_tensor(output)
            assert tensor is not None
            kept["target"] = tensor.clone()

    counts = collections.Counter[str]()
    assert begins.module is not None
    hooks = [begins.module.register_forward_hook(leaf)]
    last = ends.module if ends.module is not None else module
    if ends.at == "input":
        hooks.append(last.register_forward_pre_hook(end))
    else:
        hooks.append(last.register_forward_hook(end))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        module(x.repeat(2, 1, 1, 1))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    f = feature.read(ends.layout.to_map(kept["target"]))
    [gradient] = torch.autograd.grad(f.sum(), kept["through"])
    values = (gradient * kept["through"].detach()).flatten().sort()[0]
    return f[:1].detach(), values[::2]  # the two copies give each value twice


def compare(name: str, module: nn.Module, size: tuple[int, int]) -> tuple[list[str], int]:
    """What comes of three pairs of layers: 'equal', 'refused: …' or 'WRONG: …'.

    And how many layers cannot be read.
    """
    network = Network(module, preprocessing=Preprocessing(size=size), name=name)
    x = noise(2, size, network.dtype, 7)
    outcomes = []
    for target, through in pairs(network):
        try:
            feature = network.resolve(Feature(layer=target, unit=1))
            ours = opponent.attribute(network, x, feature, through)
        except (UnknownLayout, UnknownGeometry, ValueError) as error:
            outcomes.append(f"refused: {target} through {through}: {error}")
            continue
        outcomes.append("equal")
        for k in range(2):
            f, values = reference(network, x[k : k + 1], target, through, feature)
            s = ours.attribution[k].flatten()
            padding = s.numel() - values.numel()  # places below the grid that are no tokens
            s = s[s.abs().argsort(stable=True)[padding:]].sort()[0]
            limit = ROUNDING[network.dtype] * float(values.abs().max())
            if s.shape != values.shape or float((s - values).abs().max()) > limit:
                outcomes[-1] = f"WRONG: S of {feature.label} through {through}"
            size_of_f = max(float(f.abs()), float(values.abs().sum()))
            if float((ours.activation[k] - f).abs()) > ROUNDING[network.dtype] * size_of_f:
                outcomes[-1] = f"WRONG: activation of {feature.label}"
    return outcomes, len(network.layers.refused)


def is_single(module: nn.Module) -> bool:
    """Whether a network is in single precision."""
    return next(module.parameters()).dtype == torch.float32


HEAD = ["| network | input | pairs equal | layers refused | what is not equal |"]
HEAD += ["| --- " * 5 + "|"]


def main() -> None:
    """Compare the networks that are asked for, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = list[str]()
    if given.out is not None and given.out.exists():
        rows = given.out.read_text(encoding="utf-8").splitlines()[len(HEAD) :]
    totals = collections.Counter[str]()
    for name, module, size in networks(given.only, {row.split(" | ")[0][2:] for row in rows}):
        start = time.perf_counter()
        try:
            outcomes, refused = compare(name, module, size)
            if any(x.startswith("WRONG") for x in outcomes) and is_single(module):
                outcomes, refused = compare(name, module.double(), size)
        except ValueError as error:
            outcomes, refused = [f"refused: {error}"], 0
        except Exception as error:
            outcomes, refused = [f"WRONG: {type(error).__name__}: {error}".splitlines()[0]], 0
        totals.update(outcome.partition(":")[0] for outcome in outcomes)
        notes = "; ".join(x.replace("|", "/") for x in outcomes if x != "equal")
        equal = sum(x == "equal" for x in outcomes)
        row = f"| {name} | {size[0]} x {size[1]} | {equal} | {refused} | {notes} |"
        print(row, f"{time.perf_counter() - start:.0f} s", flush=True)
        rows.append(row)
        if given.out is not None:
            given.out.write_text("\n".join([*HEAD, *rows, ""]), encoding="utf-8")
        del module
        gc.collect()
    print(dict(totals))
    sys.exit(totals["WRONG"] > 0)


if __name__ == "__main__":
    main()
