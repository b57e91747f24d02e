"""The networks, each in one file that mirrors its published checkpoint: `flux`, `mmdit` and `vae`.

Import them from their modules, or from `pyramid`, which has the public names.
"""
