"""Training of the transformer: `python -m pyramid train dit --config presets/training/….toml`.

Both pyramids as published (arXiv 2410.05954): every step trains each stage once, on the last unit of a prefix
of the clip, with a history that grows coarser into the past and carries noise. The VAE and the text encoders
are frozen, so clips become latents and captions become embeddings once, before the first step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from einops import rearrange
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from pyramid.events import Unit
from pyramid.generate.guidance import Guidance, GuidedModel, Prompt
from pyramid.generate.latents import denormalize, normalize
from pyramid.generate.sampler import Noise, Sampling, sample
from pyramid.generate.schedule import make_stages
from pyramid.hub.families import GRID, TEXT_TOKENS, LatentScales
from pyramid.memory.device import device_of
from pyramid.models.flux import PyramidFluxTransformer
from pyramid.models.vae import CausalVideoVAE
from pyramid.settings import TRAINED_STAGES, units_of
from pyramid.training.data import to_video
from pyramid.training.loop import Budget, Loop
from pyramid.training.noising import corrupted_history, noised_stage, prefix_length
from pyramid.training.optim import make_optimizers
from pyramid.training.photos import camera_clip, photographs
from pyramid.training.recipe import Recipe
from pyramid.training.world import camera_caption, canonical_caption, caption


@dataclass(frozen=True)
class Captions:
    """All captions as embeddings: `states (n, l, d)`, `lengths (n,)`, `pooled (n, p)`, and whose they are."""

    states: Tensor
    lengths: Tensor
    pooled: Tensor
    owner: Tensor  # (n,) the subject (scene, or photograph and camera) each caption belongs to


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
    """Every training clip as latents `(units, c, 1, h, w)` in the transformer's space, with its captions.

    A batch is drawn by caption length first: rows of one length share each attention call.
    """

    def __init__(self, recipe: Recipe, vae: CausalVideoVAE, scales: LatentScales, captions: CaptionEncoder):
        rng = np.random.default_rng(recipe.seed + 10)
        self.rng = rng
        subjects = list(_subjects(recipe, rng))
        latents = []
        owner = []
        texts = []
        text_owner = []
        for index, (render, phrase, copies) in enumerate(tqdm(subjects, desc="clips to latents")):
            clips = to_video(np.stack([render() for _ in range(copies)]))
            latents.append(encode(vae, scales, clips))
            owner += [index] * copies
            phrases = {phrase() for _ in range(recipe.dit.captions_per_scene)}
            texts += sorted(phrases)
            text_owner += [index] * len(phrases)
        self.latents = torch.cat(latents)  # n c units h w
        self.clips_of = _group(torch.tensor(owner))
        self.captions = _encode_captions(captions, texts, torch.tensor(text_owner))
        self.by_length = _group(self.captions.lengths)
        self.length_share = np.array([len(rows) for rows in self.by_length.values()], dtype=float)
        self.length_share /= self.length_share.sum()
        self.nothing = captions([""])

    def batch(self, count: int, text_dropout: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents `(count, c, units, h, w)` and the text arguments of the transformer,
        some of them dropped.
        """
        length = list(self.by_length)[self.rng.choice(len(self.by_length), p=self.length_share)]
        rows = self.by_length[length]
        rows = rows[torch.from_numpy(self.rng.integers(len(rows), size=count))]
        subjects = self.captions.owner[rows].tolist()
        clips = torch.stack([self.clips_of[s][self.rng.integers(len(self.clips_of[s]))] for s in subjects])
        states = self.captions.states[rows, :length].clone()
        pooled = self.captions.pooled[rows].clone()
        mask = torch.ones(count, length, dtype=torch.long)
        dropped = torch.from_numpy(self.rng.random(count) < text_dropout)
        nothing, nothing_length, nothing_pooled = self.nothing
        states[dropped, : nothing_length[0]] = nothing[0]
        mask[dropped, nothing_length[0] :] = 0
        pooled[dropped] = nothing_pooled[0]
        text = {"encoder_hidden_states": states, "encoder_attention_mask": mask, "pooled_projections": pooled}
        return self.latents[clips], text


def _subjects(recipe: Recipe, rng: np.random.Generator):
    """What there is to see: `(render, phrase, copies)` for each training scene and, if wanted, photograph."""
    world = recipe.world
    for scene in world.training_scenes():
        yield (
            lambda scene=scene: world.render(scene, rng),
            lambda scene=scene: caption(scene, rng),
            recipe.dit.clips_per_scene,
        )
    if recipe.dit.photo_clips:
        photos = photographs("train", extra=recipe.vae.photo_folders)
        copies = max(1, recipe.dit.photo_clips // (len(photos) * len(world.photo_cameras)))
        for photo in photos:
            for camera in world.photo_cameras:
                yield (
                    lambda p=photo, c=camera: camera_clip(p, c, rng, size=world.size, frames=world.frames),
                    lambda c=camera: camera_caption(c, rng),
                    copies,
                )


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


@torch.no_grad()
def encode(vae: CausalVideoVAE, scales: LatentScales, video: Tensor) -> Tensor:
    """Video `(b, 3, t, h, w)` to latents in the transformer's space, float32 on the CPU."""
    parameter = next(vae.parameters())
    latents = vae.encode(video.to(parameter)).latent_dist.mode().float().cpu()
    return normalize(latents, scales)


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
    ).train()


def train_dit(recipe: Recipe, folder: Path, *, parts: Path) -> Path:
    """Train from nothing (or the last checkpoint in `folder`);
    `parts` holds the VAE, text encoders, tokenizers.

    Writes `folder/diffusion_transformer`.
    """
    torch.manual_seed(recipe.seed)
    settings = recipe.dit
    vae = CausalVideoVAE.from_pretrained(parts / "causal_video_vae", dtype=torch.bfloat16).eval()
    vae.to(PartialState().device, memory_format=torch.channels_last_3d)
    encoder = CaptionEncoder(parts)
    data = LatentClips(recipe, vae, scales_of(vae), encoder)
    model = make_transformer(recipe, data.captions.states.shape[-1], data.captions.pooled.shape[-1])
    loop = Loop(
        folder,
        model,
        lambda m: make_optimizers(m, settings.learning_rate, matrices="blocks"),
        budget=Budget(settings.minutes, settings.steps),
        ema_decay=settings.ema_decay,
        constant_share=settings.constant_share,
    )
    backend = device_of(loop.accelerator.device).attention_in_training
    if backend is not None:
        model.set_attention_backend(backend)
    loop.run(_stepper(loop, data, recipe), lambda path: save_samples(model, vae, encoder, recipe, path))
    model.eval().reset_attention_backend()
    model.to(torch.bfloat16).save_pretrained(folder / "diffusion_transformer")
    save_samples(model, vae, encoder, recipe, folder / "samples" / "final.png")
    return folder / "diffusion_transformer"


def _stepper(loop: Loop, data: LatentClips, recipe: Recipe) -> Callable[[float], dict[str, Tensor]]:
    """What `Loop.run` calls for each step: the losses of all stages, and their mean."""
    stages = make_stages(TRAINED_STAGES)
    generator = torch.Generator().manual_seed(recipe.seed + loop.step)

    def step(_: float) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for stage in range(TRAINED_STAGES):
            length = prefix_length(loop.step, data.latents.shape[2], finest=stage == TRAINED_STAGES - 1)
            clips, text = data.batch(recipe.dit.batch[stage], recipe.dit.text_dropout)
            losses[f"stage{stage}"] = stage_loss(
                loop, clips[:, :, :length], text, stages, stage, recipe, generator
            )
        return {"loss": sum(losses.values(), start=torch.zeros(())) / TRAINED_STAGES} | losses

    return step


def stage_loss(
    loop: Loop, clips: Tensor, text: dict, stages, stage: int, recipe: Recipe, generator
) -> Tensor:
    """Mean squared error of the velocity of the last unit of `clips (b, c, units, h, w)` at one stage."""
    device = loop.accelerator.device
    *past, clean = clips.split(1, dim=2)
    noise = torch.randn(clean.shape, generator=generator)
    index = torch.randint(len(stages[stage].timesteps), (len(clean),), generator=generator)
    noisy, target, timestep = noised_stage(clean, noise, stages, stage, index)
    past = corrupted_history(
        past, stage, len(stages), strongest=recipe.dit.history_noise, generator=generator
    )
    velocity = loop.model(
        [clip.to(device) for clip in (*past, noisy)],
        timestep=timestep.to(device),
        **{name: value.to(device) for name, value in text.items()},
    )
    return F.mse_loss(velocity.float(), target.to(device))


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
    states, lengths, pooled = encoder(texts)
    states = F.pad(states, (0, 0, 0, 32 - states.shape[1]))
    mask = torch.arange(32) < lengths[:, None]
    like = next(model.parameters())
    return Prompt(states.to(like), mask.long().to(like.device), pooled.to(like))
