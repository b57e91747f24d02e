"""The small parts that the transformers (and the loading of every model) share.

Precision, stated once for all of `pyramid.models`: weights, linear layers, attention and the residual
stream run in the model's dtype (float32 or bfloat16; float16 overflows with the published weights). Float32
whatever that dtype: the statistics of layer norms and RMS norms, the sinusoids of the timestep and the
rotation of queries and keys; the angles of the rotary table are float64 until their sine is taken. The model
returns its dtype; the Euler update around it is the sampler's and is float32.

Run: `python -m pytest tests/test_flux.py tests/test_mmdit.py`
"""

class StrictLoading:
    """Mixin, put before `ModelMixin`: missing or unexpected weights are an error that lists them.

    diffusers only warns, and a model with half of its weights at random makes noise without saying why.
    Config keys listed in `_leftover_config_keys` (written by the published files, meaningless here) are
    dropped without a warning; any other unknown key is dropped with diffusers' warning.
    """

    _leftover_config_keys = ()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """diffusers' `from_pretrained`, strict. Raises ValueError with the names of what does not fit."""
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        lines = [f"{what}: {', '.join(sorted(map(str, info[key])))}"
                 for what, key in (("missing", "missing_keys"), ("unexpected", "unexpected_keys"),
                                   ("of another shape", "mismatched_keys"))
                 if info[key]]
        if lines:
            raise ValueError(f"the weights in {pretrained_model_name_or_path} do not fit {cls.__name__}; "
                             + "; ".join(lines) + ". Download the folder again, or check its config.json.")
        return (model, info) if wants_info else model

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        known = {k: v for k, v in config_dict.items() if k not in cls._leftover_config_keys}
        return super().extract_init_dict(known, **kwargs)
