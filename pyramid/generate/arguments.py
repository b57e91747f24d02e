"""What else diffusers' pipelines take: accepted where it changes nothing, told where it would.

    named = known_arguments(arguments, ("seed", "fps", …), "PyramidFlowPipeline()")  # TypeError, ValueError
    options = Loading.of(device=None, local_files_only=True, device_map="cuda")

Scripts for other pipelines hand their arguments on. What has no meaning here may be left at None (or at the
value that means "as usual"); with any other value it would have been an order, and is answered with the way
out.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pyramid.settings import ELSEWHERE, NEAR

NO_CLIP_SKIP = "the text encoders are read as the model was trained"
NO_ADAPTER = "there is no such adapter for these models"
NO_SCHEDULE = "steps are given by num_inference_steps, one number a stage"
UNUSED = {  # argument of other pipelines' calls -> what to do instead
    "attention_kwargs": "the strength of a LoRA is set by pipe.set_adapters",
    "joint_attention_kwargs": "the strength of a LoRA is set by pipe.set_adapters",
    "cross_attention_kwargs": "the strength of a LoRA is set by pipe.set_adapters",
    "clip_skip": NO_CLIP_SKIP,
    "prompt_2": "both text encoders read the prompt",
    "prompt_3": "all text encoders read the prompt",
    "negative_prompt_2": "both text encoders read the negative prompt",
    "negative_prompt_3": "all text encoders read the negative prompt",
    "guidance_rescale": "guidance_scale and video_guidance_scale are all there is",
    "true_cfg_scale": "guidance_scale is the true one here",
    "guidance_scale_2": "the guidance of later units is video_guidance_scale",
    "timesteps": NO_SCHEDULE,
    "sigmas": NO_SCHEDULE,
    "eta": NO_SCHEDULE,
    "strength": "a given picture is the first frame as it is",
    "mask_image": "no part of a picture can be made anew",
    "last_image": "a clip begins with a picture, and cannot end with one",
    "ip_adapter_image": NO_ADAPTER,
    "ip_adapter_image_embeds": NO_ADAPTER,
    "callback": "use callback_on_step_end",
    "callback_steps": "use callback_on_step_end",
    "num_images_per_prompt": "use num_videos_per_prompt",
    "decode_chunk_size": "frames are decoded unit by unit; pipe.vae.enable_tiling() bounds memory",
    "decode_timestep": "the decoder takes no timestep",
    "decode_noise_scale": "the decoder takes no noise",
}
AS_USUAL = {"num_images_per_prompt": 1, "eta": 0.0, "callback_steps": 1, "guidance_rescale": 0.0}
EMPTY: tuple[Any, ...] = (None, {}, [], ())


def known_arguments(given: dict[str, Any], known: Iterable[str], function: str) -> dict[str, Any]:
    """The arguments that `function` knows, without those of other pipelines that say nothing.

    Raises TypeError for an unknown name, with the nearest known one, and ValueError for an order that cannot
    be followed.
    """
    known = tuple(known)
    for name, value in given.items():
        if name in known or name in UNUSED and (value in EMPTY or value == AS_USUAL.get(name, ...)):
            continue
        if name in UNUSED:
            raise ValueError(f"{name} = {value!r} cannot be followed: {UNUSED[name]}.")
        raise unexpected(function, name, known)
    return {name: value for name, value in given.items() if name in known}


def unexpected(function: str, name: str, known: Iterable[str]) -> TypeError:
    """The error for an argument that `function` does not have."""
    known = list(known)
    other = ELSEWHERE.get(name)
    near = [other] if other in known else difflib.get_close_matches(name, known, n=1, cutoff=NEAR)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return TypeError(f"{function} got an unexpected argument {name!r}{hint}")


# -- loading

# Options of diffusers' `from_pretrained` that ask for what is done anyway, or need not be done here.
SATISFIED = {
    "local_files_only": "nothing is ever downloaded by it",
    "token": "nothing is ever downloaded by it",
    "force_download": "nothing is ever downloaded by it",
    "proxies": "nothing is ever downloaded by it",
    "low_cpu_mem_usage": "weights are read in place anyway",
    "disable_mmap": "weights are read in place anyway",
    "trust_remote_code": "no code of a checkpoint is run",
    "output_loading_info": "what does not fit is an error",
}
REFUSED = {
    "force_download": "use python -m pyramid download",
    "trust_remote_code": "no code of a checkpoint is ever run",
    "output_loading_info": "what is missing or too much is an error already",
    "custom_pipeline": "no code of a checkpoint is ever run",
    "quantization_config": 'use load_for(Settings(…, quantize="int8")) of pyramid.generate.loaded',
    "max_memory": "use a plan for memory: load_for(settings, memory=…) of pyramid.generate.loaded",
    "offload_folder": "use a plan for memory: load_for(settings, memory=…) of pyramid.generate.loaded",
    "offload_state_dict": "use a plan for memory: load_for(settings, memory=…) of pyramid.generate.loaded",
    "text_encoder": "put it into the checkpoint's folder",
    "tokenizer": "put it into the checkpoint's folder",
    "scheduler": "the stages are the scheduler here",
}
LOADING = ("model", "variant", "dtype", "device", "torch_dtype", "plan")
FUNCTION = "PyramidFlowPipeline.from_pretrained()"


@dataclass(frozen=True)
class Loading:
    """How `from_pretrained` finds and reads a checkpoint, of diffusers' options."""

    device: Any = None  # a torch.device or its name
    cache_dir: str | Path | None = None
    revision: str | None = None
    use_safetensors: bool | None = None

    @classmethod
    def of(cls, device: Any, **options: Any) -> Self:
        """The options that matter here. TypeError for an unknown one, ValueError for one that asks for what
        is not done.
        """
        own = ("cache_dir", "revision", "use_safetensors", "device_map")
        for name, value in options.items():
            if name not in (*own, *SATISFIED, *REFUSED):
                raise unexpected(FUNCTION, name, (*LOADING, *own))
            if name in REFUSED and value not in (None, False):
                raise ValueError(f"{name} = {value!r} cannot be followed: {REFUSED[name]}.")
        where = options.get("device_map")
        if where is not None and (device is not None or not _is_device(where)):
            raise ValueError(
                f"device_map = {where!r} cannot be followed: use the name of one device, such as 'cuda', or "
                "a plan for memory (load_for(settings, memory=…) of pyramid.generate.loaded)."
            )
        kept = {name: options[name] for name in own[:3] if options.get(name) is not None}
        return cls(device=where if device is None else device, **kept)


def _is_device(where: Any) -> bool:
    name = str(where)
    return not isinstance(where, dict) and name.split(":")[0] in ("cpu", "cuda", "mps", "xpu")


def check_saving(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `save_pretrained` that the models' own take. TypeError and ValueError as above."""
    for name, value in options.items():
        if name not in ("variant", "push_to_hub", "max_shard_size", "is_main_process"):
            raise unexpected(
                "PyramidFlowPipeline.save_pretrained()", name, ("save_directory", "safe_serialization")
            )
        if name == "variant" and value is not None:
            raise ValueError(
                f"variant = {value!r} cannot be followed: the folder's name says the variant, the weights "
                "their own dtype. Leave it out."
            )
        if name == "push_to_hub" and value:
            raise ValueError("push_to_hub cannot be followed: save, then use `hf upload REPOSITORY FOLDER`.")
    return {name: value for name, value in options.items() if name == "max_shard_size" and value is not None}
