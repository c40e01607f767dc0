"""Makes torchvision importable beside a torch that its compiled operators are not built for."""

import importlib.util
import sys

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

if all(importlib.util.find_spec(name) for name in ("torch", "torchvision")):
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # torchvision's import refers to operators of its extension, which did not load (a CPU
        # torch beside a CUDA torchvision). The nets need none of them: their schemas are enough.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + SCHEMA)
