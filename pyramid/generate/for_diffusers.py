"""PyramidFlowPipeline: what makes videos, as a pipeline of diffusers.

    pipe = PyramidFlowPipeline.from_pretrained("embedded")
    video = pipe("a red ball moves to the right over a green meadow", seed=1).frames[0]  # PIL pictures
    pipe.enable_model_cpu_offload()

`pyramid.generate.pipeline.PyramidFlow` does the work; what is here is how diffusers' users call, load, save
and share it. What moves models between devices is diffusers'.
"""

import dataclasses
import inspect
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import unwrap_module
from PIL import Image

from pyramid.disk import write_json
from pyramid.events import Finished, Frames, Notice, Preview
from pyramid.generate.arguments import Loading, check_saving, unexpected
from pyramid.generate.lora import adapters_of, name_of, read_lora, strength_of
from pyramid.generate.pipeline import PyramidFlow, placed
from pyramid.generate.request import (
    CALLBACK_TENSORS,
    EMBEDDINGS,
    check_dtype,
    signature_of,
)
from pyramid.hub.checkpoints import find, verify
from pyramid.hub.families import family_of
from pyramid.memory.plan import Plan
from pyramid.models import transformer_class
from pyramid.models.for_diffusers import CausalVideoVAE
from pyramid.settings import Variant, at_home
from pyramid.text.encoders import TextEncoders
from pyramid.wording import briefly


@dataclass
class PyramidFlowPipelineOutput(BaseOutput):
    """What a call returns.

    `frames`, by output type: pil, a list of lists; np, (b, f, h, w, 3) and pt, (b, f, 3, h, w), both in [0,
    1]; latent, (b, c, t, h, w). `seed` is the one that was used; `stopped` says that `stop()` ended the run
    early and only its finished units are here; `notices` are sentences on what came out otherwise than asked
    for.
    """

    frames: Any
    seed: int | None = None
    stopped: bool = False
    notices: tuple[str, ...] = ()


class PyramidFlowPipeline(DiffusionPipeline, PyramidFlow):
    """`PyramidFlow` as a pipeline of diffusers."""

    model_cpu_offload_seq = "transformer->vae"
    _callback_tensor_inputs = list(CALLBACK_TENSORS)

    @property
    def components(self) -> dict[str, Any]:
        """All that another pipeline needs: `PyramidFlowPipeline(**pipe.components)` has the same weights."""
        names = "transformer", "vae", "text", "defaults", "checkpoint"
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_pipe(cls, pipeline: Any, torch_dtype: torch.dtype | None = None, **changes: Any):
        """Another pipeline with the weights of `pipeline`, where they are; `changes`: other components.

        With `torch_dtype` the weights, which both share, are brought to it. Raises ValueError for a pipeline
        of other models, TypeError for a component that there is not.
        """
        parts = {name: value for name, value in pipeline.components.items() if name not in changes} | changes
        names = list(inspect.signature(cls.__init__).parameters)[1:]
        if missing := [name for name in ("transformer", "vae") if parts.get(name) is None]:
            raise ValueError(f"{type(pipeline).__name__} has no {missing[0]}: use a PyramidFlowPipeline.")
        if unknown := next((name for name in changes if name not in names), None):
            raise unexpected("PyramidFlowPipeline.from_pipe()", unknown, (*names, "torch_dtype"))
        made = cls(**{name: value for name, value in parts.items() if name in names})
        made.placement = getattr(pipeline, "placement", made.placement)
        return made if torch_dtype is None else made.to(check_dtype(torch_dtype))

    def enable_vae_tiling(self) -> None:
        """Make frames tile by tile, which bounds the memory of large ones."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        self.vae.disable_tiling()

    def enable_vae_slicing(self) -> None:
        """Make the frames of one video of a batch after the other's."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        self.vae.disable_slicing()

    def __call__(
        self, prompt: str | list[str] | None = None, *, return_dict: bool = True, **arguments: Any
    ) -> PyramidFlowPipelineOutput | tuple:
        """Generate, and return a `PyramidFlowPipelineOutput`, or the tuple `(frames,)` without `return_dict`.

        The arguments are those of `Settings` and of `Inputs`, and `generator`: see `to_request`. Raises
        ValueError, before any work, where one cannot be used.
        """
        settings, inputs = self.request(prompt, **arguments)
        frames = []
        notices = []
        with self.progress_bar(total=0) as bar:
            for event in self.stream(settings, inputs):
                match event:
                    case Preview():
                        bar.total = event.total
                        bar.update(event.done - bar.n)
                    case Frames():
                        frames.append(event)
                    case Notice():
                        notices.append(event.message)
                        if event.kind == "precision":
                            warnings.warn(event.message, stacklevel=2)
                    case Finished():  # the last one
                        last = event
        result = last.latents if inputs.output_type == "latent" else _assemble(frames, inputs.output_type)
        output = PyramidFlowPipelineOutput(result, last.seed, last.stopped, tuple(notices))
        return output if return_dict else (result,)

    def encode_prompt(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] | None = None,
        *,
        prompt_suffix: str | None = None,
        max_sequence_length: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """The embeddings of prompts, under the names that a call takes them by:
        `pipe(**pipe.encode_prompt(prompt), seed=1)` is `pipe(prompt, seed=1)`, bit for bit.

        `prompt_embeds` (b, l, d), `prompt_attention_mask` (b, l), `pooled_prompt_embeds` (b, p), and the same
        of the negative prompts, of which there may be one for all; on the CPU. What is None is as in a call,
        the model's own quality words and negative prompt. What was cut is warned of. Raises ValueError, as a
        call does.
        """
        texts = {"negative_prompt": negative_prompt, "prompt_suffix": prompt_suffix}
        task = self._checked(*self.request(prompt, **texts, max_sequence_length=max_sequence_length))
        named: dict[str, torch.Tensor] = {}
        for which, read in (("", task.texts), ("negative_", task.negative_texts)):
            embeds = self._embed(read, task.inputs.max_sequence_length)
            if embeds.notice:
                warnings.warn(embeds.notice, stacklevel=2)
            tensors = embeds.prompt_embeds, embeds.attention_mask, embeds.pooled
            named |= {which + name: tensor for name, tensor in zip(EMBEDDINGS, tensors, strict=True)}
        return named

    # -- LoRA

    def load_lora_weights(
        self, source, adapter_name: str | None = None, weight_name: str | None = None
    ) -> None:
        """Bring a LoRA in, at strength 1: a file, a folder, a name in the folder of LoRAs, or tensors.

        Raises ValueError for one of another kind or of another model, with what does not fit. `adapter_name`
        is what `set_adapters` calls it, its file's name when None. `weight_name` is the file of a folder.
        """
        weights = read_lora(source, self.transformer, weight_name)
        name = adapter_name or ("default" if isinstance(source, Mapping) else name_of(weight_name or source))
        self._change_weights(lambda: adapters_of(self.transformer).add(name, weights))

    def set_adapters(
        self,
        names: str | Sequence[str],
        weights: float | Sequence[float | None] | None = None,
    ) -> None:
        """Let just these LoRAs be at work, each by its weight: 1 where none is given, one number for all."""
        names = [names] if isinstance(names, str) else list(names)
        each = list(weights) if isinstance(weights, Sequence) else [weights] * len(names)
        strengths = [strength_of(weight) for weight in each]
        self._change_weights(lambda: adapters_of(self.transformer).set(names, strengths))

    def unload_lora_weights(self) -> None:
        """Let go of all LoRAs: the transformer is what it was, to the last bit."""
        self._change_weights(adapters_of(self.transformer).clear)

    def _change_weights(self, change: Callable[[], None]) -> None:
        """Change the transformer's layers. What a plan has hooked into them is lifted meanwhile."""
        from pyramid.memory import loading

        plan = self.plan
        if plan is not None:
            loading.lift(self)
        try:
            change()
        finally:
            if plan is not None:
                loading.place(self, plan)

    # -- files

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "embedded",
        variant: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        torch_dtype: torch.dtype | None = None,
        plan: Plan | None = None,
        **options: Any,
    ):
        """The pipeline of a checkpoint in the released layout.

        `model`: a folder, a repository that was downloaded before, or "embedded", "miniflux", "sd3".
        `variant`: the transformer, such as "384p"; None takes the first. `dtype`: float32 (the default) or
        bfloat16, or float16 for cards that have no bfloat16: the transformer alone is float16 then, and a
        step that overflows is taken again in float32. `torch_dtype` is diffusers' older name for it. Text
        encoders are read when a prompt first needs them; a folder without any makes a pipeline that takes
        embeddings. `plan` (a `pyramid.memory.plan.Plan`) says all of that and more, in their place.

        `options` are diffusers': `cache_dir` and `revision` of a downloaded repository, `use_safetensors`,
        `device_map` with the name of one device. Nothing is downloaded (`python -m pyramid download` does
        that), so `local_files_only`, `token` and the like change nothing.

        Raises CheckpointError (a ValueError) with all that is missing, truncated or misplaced.
        """
        dtype = _dtype_of(dtype, torch_dtype)
        _check_plan(plan)
        rest = torch.float32 if dtype == torch.float16 else dtype  # T5 and the VAE overflow in it every time
        loading_of = Loading.of(device, **options)
        checkpoint = find(model, variant, loading_of.cache_dir, loading_of.revision)
        verify(checkpoint, text=checkpoint.has_text)
        if plan is not None:
            return placed(cls, checkpoint, plan)
        load = transformer_class(checkpoint.transformer_class).from_pretrained
        safe = {"use_safetensors": loading_of.use_safetensors}
        transformer = load(checkpoint.transformer, torch_dtype=dtype, **safe).eval()
        vae = CausalVideoVAE.from_pretrained(checkpoint.vae, torch_dtype=rest, **safe).eval()
        text = TextEncoders.from_folder(checkpoint.folder, rest) if checkpoint.has_text else None
        pipe = cls(transformer, vae, text, checkpoint=checkpoint)
        return pipe if loading_of.device is None else pipe.to(loading_of.device)

    def save_pretrained(
        self, save_directory: str | Path, safe_serialization: bool = True, **options: Any
    ) -> None:
        """Write the released layout, which `from_pretrained` reads: models, text encoders, pyramid.json.

        `safe_serialization=False` writes .bin in place of .safetensors; `max_shard_size` as diffusers has it.
        A transformer that was compiled is written as it was before. Raises TypeError and ValueError for
        options that cannot be followed.
        """
        folder = at_home(save_directory)
        how = {"safe_serialization": safe_serialization, **check_saving(options)}
        transformer = unwrap_module(self.transformer)
        vae = unwrap_module(self.vae)
        transformer.save_pretrained(folder / f"diffusion_transformer_{self.defaults.name}", **how)
        vae.save_pretrained(folder / "causal_video_vae", **how)
        for part in self.text.parts if self.text is not None else ():
            for source in (part.encoder, part.tokenizer):
                if source.resolve() != (folder / source.name).resolve():
                    shutil.copytree(source, folder / source.name, dirs_exist_ok=True)
        details = dict(self.checkpoint.details) if self.checkpoint else {}
        details |= _details_of(self.defaults, type(transformer).__name__)
        write_json(folder / "pyramid.json", details)


def _dtype_of(dtype: Any, torch_dtype: Any) -> torch.dtype:
    """The dtype by today's name or by diffusers' older one. ValueError for two that differ."""
    if None not in (dtype, torch_dtype) and check_dtype(dtype) != check_dtype(torch_dtype):
        raise ValueError(f"dtype = {dtype} and torch_dtype = {torch_dtype} differ: leave one out.")
    return check_dtype(dtype or torch_dtype or torch.float32)


def _check_plan(plan: Any) -> None:
    if plan is not None and not isinstance(plan, Plan):
        raise ValueError(
            f"plan = {briefly(plan)}: a Plan of pyramid.memory.plan is expected; a name is the memory of "
            "load_for(settings, memory=…) of pyramid.generate.loaded."
        )


def _details_of(defaults: Variant, transformer: str) -> dict[str, Any]:
    """The defaults as `checkpoints.defaults_of` reads them from a pyramid.json."""
    names = {
        "name": "variant",
        "units": "max_units",
        "steps": "num_inference_steps",
        "video_steps": "video_num_inference_steps",
    }
    values = dataclasses.asdict(defaults)
    return {"family": family_of(transformer).name} | {
        names.get(key, key): value for key, value in values.items()
    }


def _assemble(events: list[Frames], output_type: str):
    """All frames of all samples in the form of `output_type`."""
    samples = max((event.sample for event in events), default=0) + 1
    clips = [[event.video for event in events if event.sample == sample] for sample in range(samples)]
    videos = [np.concatenate(clip) if clip else np.empty((0, 0, 0, 3), np.uint8) for clip in clips]
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in video] for video in videos]
    array = np.stack(videos).astype(np.float32) / 255  # b f h w 3
    return array if output_type == "np" else torch.from_numpy(array).permute(0, 1, 4, 2, 3).contiguous()


_call: Any = PyramidFlowPipeline.__call__
_call.__signature__ = signature_of(_call)
