"""The networks as diffusers' models, under their published names.

    from pyramid.models.for_diffusers import PyramidFluxTransformer
    model = PyramidFluxTransformer.from_pretrained("…/diffusion_transformer_384p", torch_dtype=torch.bfloat16)

They compute what the networks compute. What comes on top is diffusers': reading and writing all kinds of
files, offloading, quantizing, narrower storage, attention backends, several processes.
"""

import functools
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.model_loading_utils import load_state_dict
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from pyramid.disk import file_variant
from pyramid.models.attention import Attention
from pyramid.models.flux import FluxNetwork, StageNetwork
from pyramid.models.mmdit import MMDiTNetwork
from pyramid.models.network import check_fit, shared_prefix
from pyramid.models.vae import VideoVAENetwork

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from diffusers import ModelMixin as Loading
else:
    Loading = object


class StrictLoading(Loading):
    """Mixin, put before `ModelMixin`: missing or unexpected weights are an error that lists them.

    diffusers only warns, and a model with half of its weights at random makes noise without saying why.
    Leftover keys of the configuration are dropped without a warning; any other unknown key is dropped with
    diffusers' warning.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """diffusers' `from_pretrained`, strict. Raises ValueError with the names of what does not fit."""
        wants_info = kwargs.pop("output_loading_info", False)
        folder = Path(pretrained_model_name_or_path)
        if (
            kwargs.get("use_safetensors") is None
            and folder.is_dir()
            and not any(folder.glob("*.safetensors"))
        ):
            kwargs["use_safetensors"] = False  # else diffusers looks for what is not there, aloud
        if kwargs.get("variant") is None and folder.is_dir():
            kwargs["variant"] = file_variant(folder) or None
        load = functools.partial(
            super().from_pretrained, pretrained_model_name_or_path, output_loading_info=True
        )
        try:
            model, info = load(**kwargs)
        except ValueError as error:
            if "expected shape" not in str(error):
                raise
            model, info = load(**kwargs, ignore_mismatched_sizes=True)  # diffusers names the first one only
        if info["missing_keys"] and (prefix := shared_prefix(info["unexpected_keys"], info["missing_keys"])):
            model = cls._without_prefix(pretrained_model_name_or_path, prefix, **kwargs)
            return (model, {name: [] for name in info}) if wants_info else model
        shapes = [
            f"{name} {tuple(found)} in place of {tuple(wanted)}"
            for name, found, wanted in info["mismatched_keys"]
        ]
        check_fit(
            pretrained_model_name_or_path,
            cls.__name__,
            missing=info["missing_keys"],
            unexpected=info["unexpected_keys"],
            shapes=shapes,
        )
        return (model, info) if wants_info else model

    @classmethod
    def _without_prefix(cls, folder, prefix, torch_dtype=torch.float32, **kwargs):
        """The model of a folder whose weights all have names that begin with `prefix`, as wrappers of
        trainers write them. ValueError where its loading is left to others.
        """
        if kwargs.get("quantization_config") is not None:
            raise ValueError(
                f"the names of the weights in {folder} begin with {prefix!r}: load and save it once without "
                "quantization, which drops that"
            )
        log.warning("the names of the weights in %s begin with %r, which is left out", folder, prefix)
        files = sorted(Path(folder).glob("*.safetensors")) or sorted(Path(folder).glob("*.bin"))
        weights = {name: value for file in files for name, value in load_state_dict(file).items()}
        model = cls.from_config(cls.load_config(folder))
        model.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items()})
        return nn.Module.to(model, torch_dtype).eval()

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        known = {k: v for k, v in config_dict.items() if k not in cls._leftover_config_keys}
        return super().extract_init_dict(known, **kwargs)


class DiffusersModel(StrictLoading, ModelMixin, ConfigMixin):
    """A network that is one of diffusers' models: put before the network among the bases."""

    _gradient_checkpointing_func: Any = None  # what ModelMixin's `__init__`, which is not run, would set
    config = ConfigMixin.config

    def keep_config(self, values):
        """`register_to_config` has kept it."""

    def to_json_string(self) -> str:
        """The configuration as it is saved: without the folder that the weights were read from, which is a
        place on one machine.
        """
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"


class DispatchedAttention(Attention, AttentionModuleMixin):
    """Attention by the kernel, and on as many devices, as diffusers was asked for."""

    _supports_qkv_fusion = False

    def attend(self, query, key, value):
        return dispatch_attention_fn(
            query,
            key,
            value,
            backend=self.processor._attention_backend,
            parallel_config=self.processor._parallel_config,
        )


class StageTransformer(DiffusersModel, PeftAdapterMixin, StageNetwork):
    """What both families do."""

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ["pos_embed", "norm", "time_text_embed"]
    # `prepare` and `denoise` do not pass through `forward`, where block-level offload would otherwise hook in
    _group_offload_block_modules = [
        "pos_embed",
        "x_embedder",
        "context_embedder",
        "time_text_embed",
        "norm_out",
        "proj_out",
    ]
    attention = DispatchedAttention

    def checkpointed(self, block, *inputs):
        return self._gradient_checkpointing_func(block, *inputs)


class PyramidFluxTransformer(StageTransformer, FluxNetwork):
    """Double blocks, then single blocks; 3-axis rotary positions: see `pyramid.models.flux`."""

    _no_split_modules = ["DoubleBlock", "SingleBlock"]
    _repeated_blocks = ["DoubleBlock", "SingleBlock"]
    __init__ = register_to_config(FluxNetwork.__init__)


class PyramidDiffusionMMDiT(StageTransformer, MMDiTNetwork):
    """Double blocks only; the last one lets the text end: see `pyramid.models.mmdit`."""

    _no_split_modules = ["DoubleBlock"]
    _repeated_blocks = ["DoubleBlock"]
    __init__ = register_to_config(MMDiTNetwork.__init__)


class CausalVideoVAE(DiffusersModel, VideoVAENetwork):
    """The causal video VAE of the released checkpoints: see `pyramid.models.vae`."""

    _supports_gradient_checkpointing = False
    _no_split_modules = ["CausalResnetBlock", "FrameAttention"]
    # `decode` does not pass through `forward`, where block-level offload would otherwise hook in
    _group_offload_block_modules = ["encoder", "decoder", "quant_conv", "post_quant_conv"]
    __init__ = register_to_config(VideoVAENetwork.__init__)


MODELS = {model.__name__: model for model in (PyramidFluxTransformer, PyramidDiffusionMMDiT, CausalVideoVAE)}
