"""The networks, each in one file that mirrors its published checkpoint: `flux`, `mmdit` and `vae`.

Import them from their modules, or from `pyramid`, which has the public names; `transformer_class` finds a
family's by the name that its checkpoints give.
"""


def transformer_class(name: str):
    """The transformer class of that name, such as PyramidFluxTransformer; KeyError for another."""
    from pyramid.models.flux import PyramidFluxTransformer
    from pyramid.models.mmdit import PyramidDiffusionMMDiT

    return {cls.__name__: cls for cls in (PyramidFluxTransformer, PyramidDiffusionMMDiT)}[name]
