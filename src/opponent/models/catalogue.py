"""The names of models. It imports nothing heavy, so that the command can answer at once."""

import difflib

EMBEDDED = "inceptionv1-small"
# Which to take when; the first lines of `opponent models`.
ADVICE = (
    "To try things: inceptionv1-small, which ships inside. For pictures as in the paper: "
    "inceptionv1-bvlc=FILE, ImageNet's InceptionV1 without batch norm. For your "
    "own question: your own network."
)
MODELS = {
    "inceptionv1-small": "InceptionV1 at half width for 112 x 112 images, to mixed4e; inside",
    "inceptionv1": "'inception5h', the paper's network; fetched and checked, or a file",
    "inceptionv1-bvlc": "InceptionV1 as trained in Caffe, without batch norm; needs =FILE",
    "torchvision:NAME": "any classifier of torchvision, such as torchvision:squeezenet1_1",
    "timm:NAME": "any model of timm, such as timm:resnet18",
    "module:PACKAGE.MODULE:FACTORY": "what your own function returns: an nn.Module or a Network",
}


def check_model(name: str) -> None:
    """Check that a name has the form of one of `MODELS`.

    Raises:
        ValueError: it has not; the message gives the nearest name and all of them.
    """
    library, colon, rest = name.partition(":")
    if name in MODELS or (colon and rest and library in ("torchvision", "timm", "module")):
        return
    near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(f"no model is called {name!r}{hint} The models: {', '.join(MODELS)}")
