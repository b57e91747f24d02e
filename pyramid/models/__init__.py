"""The networks, each in one file that mirrors its published checkpoint: `flux`, `mmdit` and `vae`.

As modules of torch they are `FluxNetwork`, `MMDiTNetwork` and `VideoVAENetwork`; under their published names,
`PyramidFluxTransformer` and so on, they are diffusers' models, from `for_diffusers`. `transformer_class` and
`network_class` find either by the name that a checkpoint gives.
"""


def transformer_class(name: str):
    """The transformer of that name as a model of diffusers; KeyError for another."""
    from pyramid.models.for_diffusers import PyramidDiffusionMMDiT, PyramidFluxTransformer

    return {cls.__name__: cls for cls in (PyramidFluxTransformer, PyramidDiffusionMMDiT)}[name]


def network_class(name: str):
    """The same with torch alone, such as FluxNetwork for PyramidFluxTransformer; KeyError for another."""
    from pyramid.models.flux import FluxNetwork
    from pyramid.models.mmdit import MMDiTNetwork

    return {cls.published: cls for cls in (FluxNetwork, MMDiTNetwork)}[name]
