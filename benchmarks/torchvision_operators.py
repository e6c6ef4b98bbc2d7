"""Let torchvision import beside a build of torch that lacks its compiled operators.

    python -m benchmarks.torchvision_operators scan torchvision:squeezenet1_1 …

gives the command `opponent` with torchvision's models in such an environment. Only their names are
needed for models and transforms to import; nothing here computes.
"""

import torch

if not hasattr(torch.ops.torchvision, "nms"):
    OPERATORS = torch.library.Library("torchvision", "DEF")
    for plain in ("nms", "qnms", "qroi_align", "deform_conv2d", "_deform_conv2d_backward"):
        OPERATORS.define(f"{plain}(Tensor x) -> Tensor")
    for pooled in ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool"):
        OPERATORS.define(f"{pooled}(Tensor x) -> Tensor")
        OPERATORS.define(f"_{pooled}_backward(Tensor x) -> Tensor")

if __name__ == "__main__":
    from opponent.__main__ import main

    main()
