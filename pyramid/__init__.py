"""Pyramid Flow: a sentence or a picture becomes a video, coarse to fine, unit by unit (arXiv 2410.05954).

    from pyramid import PyramidFlowPipeline
    pipe = PyramidFlowPipeline.from_pretrained("embedded")

The names below are loaded when they are first used, so that `import pyramid` itself is fast and needs no
torch.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyramid.generate.pipeline import PyramidFlowPipeline, PyramidFlowPipelineOutput
    from pyramid.models.flux import PyramidFluxTransformer
    from pyramid.models.mmdit import PyramidDiffusionMMDiT
    from pyramid.models.vae import CausalVideoVAE
    from pyramid.settings import Settings

_HOMES = {
    "PyramidFlowPipeline": "pyramid.generate.pipeline",
    "PyramidFlowPipelineOutput": "pyramid.generate.pipeline",
    "PyramidFluxTransformer": "pyramid.models.flux",
    "PyramidDiffusionMMDiT": "pyramid.models.mmdit",
    "CausalVideoVAE": "pyramid.models.vae",
    "Settings": "pyramid.settings",
}

# diffusers imports bitsandbytes, which tells everybody of an optional kernel that it has looked for.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "kernels-community" not in str(record.msg)
)

__all__ = [
    "CausalVideoVAE",
    "PyramidDiffusionMMDiT",
    "PyramidFlowPipeline",
    "PyramidFlowPipelineOutput",
    "PyramidFluxTransformer",
    "Settings",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'pyramid' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
