"""Training of the transformer: `python -m pyramid train dit --config presets/training/….toml`.

Both pyramids as published (arXiv 2410.05954): every step trains each stage once, on the last unit of a prefix
of the clip, with a history that grows coarser into the past and carries noise. The VAE and the text encoders
are frozen, so clips become latents and captions become embeddings once, before the first step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from diffusers.models.attention_dispatch import attention_backend
from einops import rearrange
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from pyramid.disk import whole
from pyramid.events import Unit
from pyramid.generate.guidance import Guidance, GuidedModel, Prompt
from pyramid.generate.latents import denormalize
from pyramid.generate.sampler import Noise, Sampling, sample
from pyramid.generate.schedule import make_stages
from pyramid.hub.checkpoints import find
from pyramid.hub.families import GRID, TEXT_TOKENS, LatentScales
from pyramid.memory.device import device_of
from pyramid.models.flux import PyramidFluxTransformer
from pyramid.models.vae import CausalVideoVAE
from pyramid.settings import TRAINED_STAGES, units_of
from pyramid.training.data import encode, to_video
from pyramid.training.loop import Budget, Loop
from pyramid.training.noising import corrupted_history, noised_stage, prefix_length
from pyramid.training.optim import make_optimizers
from pyramid.training.own_past import own_clips
from pyramid.training.photo_clips import PhotoClips, moves_of, photo_clips, phrases_of
from pyramid.training.recipe import Recipe, keys_of
from pyramid.training.world import canonical_caption, caption


@dataclass(frozen=True)
class Captions:
    """All captions as embeddings: `states (n, l, d)`, `lengths (n,)`, `pooled (n, p)`, and whose they are."""

    states: Tensor
    lengths: Tensor
    pooled: Tensor
    owner: Tensor  # (n,) the subject (scene, or what a camera does) each caption belongs to


class CaptionEncoder:
    """The frozen T5 and CLIP of a checkpoint folder."""

    def __init__(self, folder: Path):
        self.t5_tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer_2")
        self.t5 = T5EncoderModel.from_pretrained(folder / "text_encoder_2", dtype=torch.float32).eval()
        self.clip_tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self.clip = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """`(states (n, l, d), lengths (n,), pooled (n, p))`; `l` is the longest of these texts."""
        tokens = self.t5_tokenizer(
            texts, padding=True, truncation=True, max_length=TEXT_TOKENS, return_tensors="pt"
        )
        states = self.t5(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        clip = self.clip_tokenizer(
            texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        )
        return states, tokens.attention_mask.sum(1), self.clip(clip.input_ids).pooler_output


class LatentClips:
    """Training clips as latents `(n, c, units, h, w)` in the transformer's space, with their captions.

    `owner (n,)` says which subject a clip shows, `texts` the captions of each subject. A batch is drawn by
    caption length first: rows of one length share each attention call. `own`: the clips as the model makes
    them (`training.own_past`), for the past of some samples.
    """

    def __init__(
        self,
        latents: Tensor,
        owner: Tensor,
        texts: list[list[str]],
        captions: CaptionEncoder,
        rng: np.random.Generator,
    ):
        self.rng = rng
        self.latents = latents
        self.own: Tensor | None = None
        self.owner = owner
        self.clips_of = _group(owner)
        spoken = [text for phrases in texts for text in phrases]
        text_owner = [index for index, phrases in enumerate(texts) for _ in phrases]
        self.captions = _encode_captions(captions, spoken, torch.tensor(text_owner))
        self.by_length = _group(self.captions.lengths)
        self.length_share = np.array([len(rows) for rows in self.by_length.values()], dtype=float)
        self.length_share /= self.length_share.sum()
        self.nothing = captions([""])

    @classmethod
    def of_world(cls, recipe: Recipe, made: Tensor, captions: CaptionEncoder) -> LatentClips:
        """Clips of each training scene of the recipe's world, as `world_clips` makes them."""
        rng = np.random.default_rng(recipe.seed + 10)
        scenes, wordings = recipe.world.training_scenes(), range(recipe.dit.captions_per_scene)
        texts = [sorted({caption(scene, rng) for _ in wordings}) for scene in scenes]
        owner = torch.arange(len(scenes)).repeat_interleave(recipe.dit.clips_per_scene)
        return cls(made, owner, texts, captions, rng)

    @classmethod
    def of_photographs(cls, recipe: Recipe, made: PhotoClips, captions: CaptionEncoder) -> LatentClips:
        """Photographs and textures moved by a camera: a subject is what the camera does."""
        texts = [sorted(phrases_of(move)) for move in moves_of(recipe)]
        return cls(made.latents, made.move, texts, captions, np.random.default_rng(recipe.seed + 11))

    def told(self) -> tuple[Prompt, Prompt]:
        """A caption of each clip (n rows), and the empty one (one row), padded to one length."""
        said = self.captions
        rows = torch.tensor([int((said.owner == owner).nonzero()[0]) for owner in self.owner])
        length = said.states.shape[1]
        told = _padded(said.states[rows], said.lengths[rows], said.pooled[rows], length)
        return told, _padded(*self.nothing, length)

    def batch(
        self, count: int, text_dropout: float, length: int, own_past: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The first `length` units `(count, c, length, h, w)` of clips, and the text arguments of the
        transformer, some of them dropped. A share `own_past` has, before the last of them, the model's own.
        """
        words = list(self.by_length)[self.rng.choice(len(self.by_length), p=self.length_share)]
        rows = self.by_length[words]
        rows = rows[torch.from_numpy(self.rng.integers(len(rows), size=count))]
        subjects = self.captions.owner[rows].tolist()
        clips = torch.stack([self.clips_of[s][self.rng.integers(len(self.clips_of[s]))] for s in subjects])
        states = self.captions.states[rows, :words].clone()
        pooled = self.captions.pooled[rows].clone()
        mask = torch.ones(count, words, dtype=torch.long)
        dropped = torch.from_numpy(self.rng.random(count) < text_dropout)
        nothing, nothing_length, nothing_pooled = self.nothing
        states[dropped, : nothing_length[0]] = nothing[0]
        mask[dropped, nothing_length[0] :] = 0
        pooled[dropped] = nothing_pooled[0]
        text = {"encoder_hidden_states": states, "encoder_attention_mask": mask, "pooled_projections": pooled}
        units = self.latents[clips, :, :length]
        if own_past and self.own is not None:
            made = torch.from_numpy(self.rng.random(count) < own_past)
            units[made, :, :-1] = self.own[clips[made], :, : length - 1]
        return units, text


def _group(values: Tensor) -> dict[int, Tensor]:
    """For each value the places where it stands."""
    return {int(value): torch.nonzero(values == value)[:, 0] for value in values.unique()}


def _encode_captions(encoder: CaptionEncoder, texts: list[str], owner: Tensor) -> Captions:
    parts, lengths, pooled = zip(
        *(encoder(texts[i : i + 256]) for i in range(0, len(texts), 256)), strict=True
    )
    longest = max(part.shape[1] for part in parts)
    states = torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
    return Captions(states, torch.cat(lengths), torch.cat(pooled), owner)


def scales_of(vae: CausalVideoVAE) -> LatentScales:
    """The latent scales that training wrote into the VAE's configuration."""
    config = vae.config
    return LatentScales(config.image_shift, config.image_scale, config.video_shift, config.video_scale)


def make_transformer(recipe: Recipe, text_dim: int, pooled_dim: int) -> PyramidFluxTransformer:
    """A miniFLUX of the recipe's size."""
    settings = recipe.dit
    time, space = settings.head_dim // 4, 3 * settings.head_dim // 8
    return PyramidFluxTransformer(
        num_layers=settings.layers,
        num_single_layers=settings.single_layers,
        num_attention_heads=settings.heads,
        attention_head_dim=settings.head_dim,
        axes_dims_rope=(time, space, space),
        joint_attention_dim=text_dim,
        pooled_projection_dim=pooled_dim,
        fixed_past=settings.fixed_past,
    ).train()


def train_dit(recipe: Recipe, folder: Path, *, parts: Path) -> Path:
    """Train from nothing, or from the recipe's `start` (or the last checkpoint in `folder`);
    `parts` holds the VAE, text encoders, tokenizers.

    Writes `folder/diffusion_transformer`, and what it makes of photographs to `folder/photographs`.
    """
    torch.manual_seed(recipe.seed)
    settings = recipe.dit
    vae = CausalVideoVAE.from_pretrained(parts / "causal_video_vae", dtype=torch.bfloat16).eval()
    vae.to(PartialState().device, memory_format=torch.channels_last_3d)
    encoder = CaptionEncoder(parts)
    data, moving = _clips_of(recipe, folder, vae, encoder)
    model = make_transformer(recipe, data.captions.states.shape[-1], data.captions.pooled.shape[-1])
    start = _start(recipe)
    if start is not None:
        model.load_state_dict(start.state_dict())
        if settings.own_past:
            _give_own_pasts(recipe, folder, start, data, moving)
    loop = Loop(
        folder,
        model,
        lambda m: make_optimizers(m, settings.learning_rate, matrices="blocks"),
        budget=Budget(settings.minutes, settings.steps),
        ema_decay=settings.ema_decay,
        constant_share=settings.constant_share,
        fixed=keys_of("dit", settings, "layers", "single_layers", "heads", "head_dim"),
    )
    # Whoever goes on from a finished model looks at its checkpoints with `evaluate`.
    samples = None if settings.start else partial(save_samples, model, vae, encoder, recipe)
    with _attention_of(loop):
        loop.run(_stepper(loop, data, moving, recipe, _kept(recipe, loop)), samples)
    model.eval()
    if start is not None:
        mix(model, start, settings.start_share)
    model.to(torch.bfloat16).save_pretrained(folder / "diffusion_transformer")
    save_samples(model, vae, encoder, recipe, folder / "samples" / "final.png")
    return folder / "diffusion_transformer"


def _attention_of(loop: Loop) -> AbstractContextManager[None]:
    """The attention that is best in training. A model's own setter would set that of all others for good."""
    backend = device_of(loop.accelerator.device).attention_in_training
    return nullcontext() if backend is None else attention_backend(backend)


def _start(recipe: Recipe) -> PyramidFluxTransformer | None:
    """The finished transformer that a recipe goes on from, if it does."""
    return _finished(recipe, recipe.dit.start_variant, torch.float32) if recipe.dit.start else None


def _finished(recipe: Recipe, variant: str, dtype: torch.dtype) -> PyramidFluxTransformer:
    """A transformer of the recipe's `start`, its first where no variant is said."""
    path = find(recipe.dit.start, variant or None).transformer
    return PyramidFluxTransformer.from_pretrained(path, dtype=dtype)


@torch.no_grad()
def mix(model: torch.nn.Module, other: torch.nn.Module, share: float) -> None:
    """Bring the weights of a model as far towards those of another as that one's share in the mean."""
    for weight, target in zip(model.parameters(), other.parameters(), strict=True):
        weight.lerp_(target.to(weight), share)


def _kept(recipe: Recipe, loop: Loop) -> PyramidFluxTransformer | None:
    """The transformer whose velocities on the world are learned too, where the recipe wants one."""
    settings = recipe.dit
    if settings.keep <= 0:
        return None
    model = _finished(recipe, settings.keep_variant, torch.bfloat16)
    return model.to(loop.accelerator.device).eval().requires_grad_(False)


def world_clips(recipe: Recipe, path: Path, vae: CausalVideoVAE, scales: LatentScales) -> Tensor:
    """`clips_per_scene` clips of each training scene as latents, from `path` or made and written there."""

    def make() -> Tensor:
        rng = np.random.default_rng(recipe.seed + 9)
        world, copies = recipe.world, recipe.dit.clips_per_scene
        latents = []
        for scene in tqdm(world.training_scenes(), desc="clips to latents"):
            clips = np.stack([world.render(scene, rng) for _ in range(copies)])
            latents.append(encode(vae, scales, to_video(clips)))
        return torch.cat(latents)

    return _once(path, make)


def _once(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """Latents as `make` makes them, or as it did: they are kept in `path`, where float16 is exact to three
    digits.
    """
    if path.exists():
        return load_file(path)["latents"].float()
    latents = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        save_file({"latents": latents.half().contiguous()}, part)
    return latents


def _give_own_pasts(
    recipe: Recipe,
    folder: Path,
    start: PyramidFluxTransformer,
    data: LatentClips,
    moving: LatentClips | None,
) -> None:
    """Let the clips have what a model makes of them; of a photograph the first unit is given."""
    data.own = _own(recipe, folder / "own.safetensors", start, data)
    if moving is not None:
        moving.own = _own(recipe, folder / "own-photographs.safetensors", start, moving, given=1)


def _own(
    recipe: Recipe, path: Path, model: PyramidFluxTransformer, data: LatentClips, *, given: int = 0
) -> Tensor:
    """The clips as a model makes them, from `path` or made and written there."""

    def make() -> Tensor:
        maker = copy.deepcopy(model).to(PartialState().device, torch.bfloat16).eval()
        told, empty = (text.to(maker.dtype) for text in data.told())
        return own_clips(maker, data.latents, told, empty, recipe.dit, seed=recipe.seed, given=given)

    return _once(path, make)


def _clips_of(
    recipe: Recipe, folder: Path, vae: CausalVideoVAE, encoder: CaptionEncoder
) -> tuple[LatentClips, LatentClips | None]:
    """The clips of the world and, where the recipe wants some, those of photographs."""
    scales = scales_of(vae)
    moving = None
    if recipe.dit.photo_clips:
        made = photo_clips(recipe, folder / "photographs", vae, scales)
        moving = LatentClips.of_photographs(recipe, made, encoder)
    scenes = world_clips(recipe, folder / "world.safetensors", vae, scales)
    return LatentClips.of_world(recipe, scenes, encoder), moving


def _stepper(
    loop: Loop,
    data: LatentClips,
    moving: LatentClips | None,
    recipe: Recipe,
    kept: PyramidFluxTransformer | None = None,
) -> Callable[[float], dict[str, Tensor]]:
    """What `Loop.run` calls for each step: the losses of all stages, and their mean. A share of the steps is
    on photographs, whose first unit is given and not learned; on the others `kept` is the model that is not
    to be forgotten.
    """
    stages = make_stages(TRAINED_STAGES)
    generator = torch.Generator().manual_seed(recipe.seed + loop.step)

    def step(_: float) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        drawn = np.random.default_rng([recipe.seed, 12, loop.step]).random()
        photos = moving if moving is not None and drawn < recipe.dit.photo_share else None
        clips, first = photos or data, int(photos is not None)
        for stage in range(TRAINED_STAGES):
            longest = clips.latents.shape[2] - first
            length = first + prefix_length(loop.step, longest, finest=stage == TRAINED_STAGES - 1)
            settings = recipe.dit
            latents, text = clips.batch(
                settings.batch[stage], settings.text_dropout, length, settings.own_past
            )
            loss = stage_loss(
                loop,
                latents,
                text,
                stages,
                stage,
                recipe,
                generator,
                kept=None if photos else kept,
            )
            losses[f"{'photo' if photos else 'stage'}{stage}"] = loss
        return {"loss": sum(losses.values(), start=torch.zeros(())) / TRAINED_STAGES} | losses

    return step


def stage_loss(  # noqa: PLR0913 - what is drawn, from what, at which stage
    loop: Loop, clips: Tensor, text: dict, stages, stage: int, recipe: Recipe, generator, *, kept=None
) -> Tensor:
    """Mean squared error of the velocity of the last unit of `clips (b, c, units, h, w)` at one stage, a
    share `keep` of what is to be learned being that of the model `kept`, where there is one.
    """
    device = loop.accelerator.device
    *past, clean = clips.split(1, dim=2)
    noise = torch.randn(clean.shape, generator=generator)
    index = torch.randint(len(stages[stage].timesteps), (len(clean),), generator=generator)
    noisy, target, timestep = noised_stage(clean, noise, stages, stage, index)
    past = corrupted_history(
        past, stage, len(stages), strongest=recipe.dit.history_noise, generator=generator
    )
    given = [clip.to(device) for clip in (*past, noisy)]
    told = {"timestep": timestep.to(device)} | {name: value.to(device) for name, value in text.items()}
    target = target.to(device)
    if kept is not None:
        with torch.no_grad(), loop.accelerator.autocast():
            target = torch.lerp(target, kept(given, **told).float(), recipe.dit.keep)
    return F.mse_loss(loop.model(given, **told).float(), target)


def save_samples(model, vae, encoder: CaptionEncoder, recipe: Recipe, path: Path, count: int = 8) -> None:
    """Videos of held-out scenes as rows of frames: what the model can do so far."""
    scenes = recipe.world.held_out_scenes()
    chosen = np.random.default_rng(0).permutation(len(scenes))[:count]
    texts = [canonical_caption(scenes[i]) for i in chosen]
    latents = generate(model, encoder, texts, recipe)
    parameter = next(vae.parameters())
    with torch.no_grad():
        video = vae.decode(denormalize(latents.to(parameter), scales_of(vae))).sample.float().cpu()
    frames = rearrange(video[:, :, ::4], "b c t h w -> (b h) (t w) c")
    Image.fromarray(((frames.clamp(-1, 1) + 1) * 127.5).byte().numpy()).save(path)
    path.with_suffix(".txt").write_text("\n".join(texts) + "\n")


def generate(model, encoder: CaptionEncoder, texts: list[str], recipe: Recipe) -> Tensor:
    """Latents `(n, c, units, h, w)` of whole clips for some captions, with the recipe's sampling settings."""
    settings = recipe.dit
    world = recipe.world
    wanted, empty = (_prompt(encoder, t, model) for t in (texts, [""] * len(texts)))
    side, _ = GRID.latent_size(world.size, world.size)
    noise = Noise((model.config.in_channels // 4, side, side), seeds=list(range(len(texts))))
    guidance = Guidance(settings.sample_guidance, settings.sample_guidance)
    run = Sampling(
        units=units_of(world.frames), steps=settings.sample_steps, video_steps=settings.sample_steps
    )
    events = sample(GuidedModel(model, wanted, empty, guidance), noise, run)
    return torch.cat([event.latents for event in events if isinstance(event, Unit)], dim=2)


def _prompt(encoder: CaptionEncoder, texts: list[str], model) -> Prompt:
    """Captions as the sampler takes them, padded to 32 tokens, in the model's dtype."""
    prompt = _padded(*encoder(texts), 32)
    like = next(model.parameters())
    return Prompt(prompt.embeds.to(like), prompt.mask.to(like.device), prompt.pooled.to(like))


def _padded(states: Tensor, lengths: Tensor, pooled: Tensor, length: int) -> Prompt:
    """What a `CaptionEncoder` makes of texts, as the sampler takes it: all of `length` tokens."""
    states = F.pad(states, (0, 0, 0, length - states.shape[1]))
    return Prompt(states, (torch.arange(length) < lengths[:, None]).long(), pooled)
