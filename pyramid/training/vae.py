"""Training of the causal video VAE: `python -m pyramid train vae --config presets/training/….toml`.

Pictures first, with the one-frame path of the causal convolutions, then clips (arXiv 2410.05954, appendix B:
images and 17-frame videos mixed). Loss: the published one where the recipe says so, else L1 + L2 + gradient
differences, KL, a critic's where the recipe wants one, and agreement at half size: latents averaged 2×2 must
decode to the clip at half its size, because the coarse stages of the pyramid are made of just such latents
(the idea of EQ-VAE, arXiv 2502.09509). After
training the latents are whitened; the whitening is folded into `quant_conv` and `post_quant_conv`, so that
the checkpoint has the released layout and the transformer sees unit variance.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from pyramid.disk import link, whole
from pyramid.generate.latents import down
from pyramid.hub.checkpoints import find, list_variants
from pyramid.hub.families import GRID
from pyramid.models.causal import (
    CausalConv3d,
    CausalResnetBlock,
    Downsample,
    SpatialUpsample,
    TemporalUpsample,
)
from pyramid.models.vae import CausalVideoVAE
from pyramid.training.clips.lists import Listing
from pyramid.training.clips.pool import ListPool
from pyramid.training.context import Context
from pyramid.training.critic import Adversary, Critic, PatchCritic
from pyramid.training.data import ClipPool, psnr
from pyramid.training.loop import Budget, Loop, begin_processes
from pyramid.training.optim import make_optimizers
from pyramid.training.perceptual import make_perceptual
from pyramid.training.recipe import Phase, Recipe, keys_of
from pyramid.training.trackers import flat

CARD = ("README.md", "*.png")  # of a checkpoint, which says what another autoencoder can do


def train_vae_on_clips(recipe: Recipe, output: str | None, listing: Listing, source: str | None) -> Path:
    """Train an autoencoder on clips of a list, from nothing or from that of a checkpoint, whose latents stay
    what they mean, and whose other parts come along. Writes `causal_video_vae` to the output's `checkpoint`,
    and returns that. ValueError where the list has not enough.
    """
    folder = Path(output or Path("runs") / recipe.name)
    begin_processes()
    start = None if source is None else CausalVideoVAE.from_pretrained(vae_of(source)).train()
    with ListPool(listing, recipe, share_of(recipe)) as pool:
        made = train_vae(recipe, folder / "vae", pool=pool, start=start)
    if not PartialState().is_main_process:
        return folder / "checkpoint"
    if source is not None and list_variants(around := vae_of(source).parent):
        others = shutil.ignore_patterns("causal_video_vae*", *CARD)
        shutil.copytree(around, folder / "checkpoint", ignore=others, copy_function=taken, dirs_exist_ok=True)
    shutil.copytree(made, folder / "checkpoint" / "causal_video_vae", dirs_exist_ok=True)
    return folder / "checkpoint"


def share_of(recipe: Recipe) -> tuple[int, int]:
    """Which of how many processes this is that have clips of their own: those that share clips are one."""
    state = PartialState()
    together = recipe.vae.context
    return state.process_index // together, max(state.num_processes // together, 1)


def taken(source: str, target: str) -> None:
    """A file of another checkpoint: linked, or copied where somebody may edit it."""
    (shutil.copyfile if source.endswith(".json") else link)(source, target)


def vae_of(source: str) -> Path:
    """The autoencoder of a model, or of what `train vae` has written, which has nothing else."""
    for path in (Path(source) / "causal_video_vae", Path(source)):
        config = path / "config.json"
        if config.is_file() and "CausalVideoVAE" in config.read_text(encoding="utf-8"):
            return path
    return find(source).vae


def train_vae(
    recipe: Recipe, folder: Path, *, pool: ClipPool | None = None, start: CausalVideoVAE | None = None
) -> Path:
    """Train from nothing (or from the last checkpoint in `folder`) and write `folder/causal_video_vae`.
    `pool`: the clips, those of the recipe's world when None. `start`: what to train on, not whitened anew.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    settings = recipe.vae
    streamed = pool if isinstance(pool, ListPool) else None
    model = start or make_vae(recipe)
    pool = pool or ClipPool(recipe.world, settings.clips, rng, photo_folders=settings.photo_folders)
    state = PartialState()
    adversary = make_adversary(recipe, state.device)
    losses = losses_of(recipe, state.device)
    loop = make_loop(folder, model, recipe, adversary)
    inflated = start is not None or was_inflated(folder, loop.step)

    def step(progress: float) -> dict[str, Tensor]:
        nonlocal inflated
        phase = current_phase(settings.phases, progress)
        if phase.frames > 1 and not inflated:
            inflate(model)
            note_inflated(folder, loop.step)
            inflated = True
        against = adversary if progress >= settings.adversary_from else None
        drawn = rng if streamed is None else streamed.drawn(loop.step)
        return losses(loop.model, draw(pool, phase, drawn).to(state.device), recipe, against)

    loop.run(step, lambda path: save_samples(model, pool, path))
    if not loop.accelerator.is_main_process:
        return folder / "causal_video_vae"
    if streamed is not None:
        streamed.advance(loop.step)
    if start is None:
        give_meaning(model.eval(), pool, recipe.seed)
    model.eval().save_pretrained(folder / "causal_video_vae")
    save_samples(model, pool, folder / "samples" / "final.png")
    return folder / "causal_video_vae"


def make_loop(folder: Path, model: CausalVideoVAE, recipe: Recipe, adversary: Adversary | None) -> Loop:
    """The loop as the recipe has it."""
    settings = recipe.vae
    loop = Loop(
        folder,
        model,
        lambda m: optimizers_of(m, recipe),
        budget=Budget(settings.minutes, settings.steps),
        ema_decay=settings.ema_decay,
        constant_share=settings.constant_share,
        keep=(adversary,) if adversary else (),
        fixed=keys_of("vae", settings, "channels", "layers", "decoder_layers", "groups", "optimizer"),
    )
    loop.warm_up = settings.warm_up
    loop.final_rate = settings.final_rate
    loop.run_name = recipe.name
    loop.about = flat(recipe)
    return loop


def give_meaning(model: CausalVideoVAE, pool: ClipPool, seed: int) -> None:
    """Whiten the latents of a new autoencoder, and find what previews of them are made with."""
    scales = whiten(model, pool.latents_of(model, np.random.default_rng(seed + 1), videos=64))
    model.register_to_config(**scales)
    model.register_to_config(**fit_preview(model, pool, np.random.default_rng(seed + 2)))


def make_vae(recipe: Recipe) -> CausalVideoVAE:
    """A VAE of the recipe's size, initialized to pass its input through."""
    settings = recipe.vae
    depth = len(settings.channels)
    model = CausalVideoVAE(
        encoder_block_out_channels=settings.channels,
        decoder_block_out_channels=settings.channels,
        encoder_layers_per_block=(settings.layers,) * depth,
        decoder_layers_per_block=(settings.decoder_layers or settings.layers,) * depth,
        encoder_norm_num_groups=settings.groups,
        decoder_norm_num_groups=settings.groups,
    )
    initialize(model)
    return model.train()


def make_adversary(recipe: Recipe, device: torch.device) -> Adversary | None:
    """The critic that the recipe asks for, if any."""
    settings = recipe.vae
    if settings.adversarial_weight <= 0 and settings.feature_weight <= 0:
        return None
    if settings.losses == "published":
        critic: nn.Module = PatchCritic(settings.adversary_width)
        return Adversary(
            critic.to(device),
            learning_rate=settings.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=settings.weight_decay,
            most=1e4,
            floor=1e-4,
        )
    critic = Critic(settings.adversary_width)
    return Adversary(critic.to(device), learning_rate=settings.learning_rate / 5)


def optimizers_of(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Those that the recipe asks for."""
    settings = recipe.vae
    if settings.optimizer == "muon":
        return make_optimizers(model, settings.learning_rate, matrices="conv to_")
    sizes: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, weight in model.named_parameters():
        sizes[weight.ndim <= 1 or name.endswith(".bias")].append(weight)
    groups = [{"params": sizes[0], "weight_decay": settings.weight_decay}]
    groups += [{"params": sizes[1], "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)]


Losses = Callable[[CausalVideoVAE, Tensor, Recipe, Adversary | None], dict[str, Tensor]]


def losses_of(recipe: Recipe, device: torch.device) -> Losses:
    """What a step is to make small. Raises ValueError for weights of LPIPS that cannot be read."""
    if recipe.vae.losses == "own":
        return vae_losses
    perceptual = make_perceptual(recipe.vae.perceptual, device)
    context = Context(recipe.vae.context)

    def losses(model: CausalVideoVAE, video: Tensor, _: Recipe, adversary: Adversary | None):
        shared = context if context.processes > 1 and video.shape[2] > 1 else None
        return published_losses(model, video, recipe, adversary, perceptual, shared)

    return losses


def draw(pool: ClipPool, phase: Phase, rng: np.random.Generator) -> Tensor:
    """A step's batch `(b, 3, t, h, w)`: clips or, in a share `phase.pictures` of the steps, pictures."""
    if rng.random() < phase.pictures:
        count = max(phase.batch * phase.frames // 2, 1)
        return pool.batch(count, phase.size, 1, rng, photos=max(phase.photos, 0.6))
    return pool.batch(phase.batch, phase.size, phase.frames, rng, photos=phase.photos)


def current_phase(phases: tuple[Phase, ...], progress: float) -> Phase:
    """The phase a run is in, from the phases' shares of the whole."""
    total = sum(phase.share for phase in phases)
    passed = 0.0
    for phase in phases:
        passed += phase.share / total
        if progress < passed:
            return phase
    return phases[-1]


@torch.no_grad()
def initialize(model: CausalVideoVAE) -> None:
    """Let signals through from the first step: an orthogonal center tap in resampling and outer convolutions.

    Default initialization leaves a deep chain of random filters that takes most of a short run to undo.
    """
    for module in model.modules():
        if isinstance(module, CausalConv3d):
            weight = module.conv.weight
            fan_in = weight.shape[1] * weight[0, 0, -1].numel()
            weight.normal_(std=fan_in**-0.5)
            weight[:, :, :-1] *= 0.05  # time enters slowly
            bias_of(module).zero_()
    repeats = {Downsample: 1, SpatialUpsample: 4, TemporalUpsample: 2}
    for module in model.modules():
        if isinstance(module, CausalResnetBlock):
            module.conv2.conv.weight *= 0.3
            if module.conv_shortcut is not None:
                _pass_through(module.conv_shortcut, 1, noise=0.0)
        elif type(module) in repeats:
            _pass_through(module.conv, repeats[type(module)])
    for end in (model.encoder.conv_in, model.encoder.conv_out, model.decoder.conv_in, model.decoder.conv_out):
        _pass_through(end, 1)
    for point in (model.quant_conv, model.post_quant_conv):
        _pass_through(point, 1, noise=0.0)
    # start with little noise on the latents: the log-variance rows at about -6
    half = model.config.encoder_out_channels
    model.quant_conv.conv.weight[half:] *= 0.1
    bias_of(model.quant_conv)[half:] = -6.0


def bias_of(conv: CausalConv3d) -> Tensor:
    """The bias of a causal convolution, which all of them have."""
    assert conv.conv.bias is not None
    return conv.conv.bias


def _pass_through(conv: CausalConv3d, repeat: int, noise: float = 0.2) -> None:
    """Center tap orthogonal (each output channel `repeat` times, for pixel shuffles),
    other taps damped noise.
    """
    weight = conv.conv.weight
    weight *= noise
    out, into = weight.shape[0] // repeat, weight.shape[1]
    tap = nn.init.orthogonal_(weight.new_empty(out, into)).repeat_interleave(repeat, dim=0)
    center = weight.shape[-1] // 2
    weight[:, :, -1, center, center] += tap


@torch.no_grad()
def inflate(model: CausalVideoVAE) -> None:
    """From pictures to clips: pictures never train the first half of a temporal upsampler,
    so it copies the second.
    """
    for module in model.modules():
        if isinstance(module, TemporalUpsample):
            module.conv.conv.weight[0::2] = module.conv.conv.weight[1::2]
            bias = bias_of(module.conv)
            bias[0::2] = bias[1::2]


def note_inflated(folder: Path, step: int) -> None:
    """Keep from which step on a run's model is one of clips."""
    if PartialState().is_main_process:
        with whole(folder / "inflated") as part:
            Path(part).write_text(str(step))


def was_inflated(folder: Path, step: int) -> bool:
    """Whether a run's model was one of clips before a step: not yet, where its last checkpoint is older than
    that moment, or where another process is at that moment.
    """
    path = folder / "inflated"
    return path.exists() and int(path.read_text() or -1) < step


def vae_losses(
    model: CausalVideoVAE, video: Tensor, recipe: Recipe, adversary: Adversary | None = None
) -> dict[str, Tensor]:
    """The losses of one batch `(b, 3, t, h, w)`: `loss` to minimize, its parts to log.
    The adversary learns too.
    """
    posterior, reconstruction = model(video)
    plain = getattr(model, "module", model)  # of processes that exchange their gradients
    pixels = reconstruction_loss(reconstruction.float(), video)
    # Nats per latent value.
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    loss = pixels + recipe.vae.kl_weight * kl
    parts = {"pixels": pixels, "kl": kl}
    if recipe.vae.half_size_weight > 0 and min(video.shape[-2:]) >= 64:
        with torch.autocast(video.device.type, torch.bfloat16):
            small = plain.decode(down(posterior.mode())).sample
        half = reconstruction_loss(small.float(), down(video))
        parts["half_size"] = half
        loss = loss + recipe.vae.half_size_weight * half
    if adversary is not None:
        made = reconstruction.float()
        settings = recipe.vae
        last_layer = plain.decoder.conv_out.conv.weight
        parts |= adversary.judge(made, video, pixels=pixels, last_layer=last_layer)
        loss = (
            loss
            + settings.adversarial_weight * parts["adversarial"]
            + settings.feature_weight * parts["features"]
        )
        parts["critic"] = adversary.learn(made, video)
    return {"loss": loss} | parts


def published_losses(
    model: CausalVideoVAE,
    video: Tensor,
    recipe: Recipe,
    adversary: Adversary | None,
    perceptual: nn.Module,
    context: Context | None = None,
) -> dict[str, Tensor]:
    """As `vae_losses`, with the published terms and weights (arXiv 2410.05954, appendix B, and its trainer):
    squared error and perceptual distance of the frames, KL summed over a latent's places, and a critic's
    judgement, as strong at the last layer as the rest. With a `context`, of this process's frames.
    """
    settings = recipe.vae
    caches = None if context is None else context.caches()
    share = 1.0  # of its frames in the clip, times the processes that share it
    if context is not None:
        frames = video.shape[2]
        video = context.share(video)
        share = video.shape[2] / frames * context.processes
    posterior, reconstruction = model(video, caches=caches)
    made = reconstruction.float()
    pixels = F.mse_loss(made, video)
    looks = perceptual(_frames(made), _frames(video)).mean()
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).sum((2, 3, 4)).mean()
    close = settings.pixel_weight * pixels + settings.perceptual_weight * looks
    parts = {"pixels": pixels, "perceptual": looks, "kl": kl}
    loss = share * close + settings.kl_weight * kl * (1 if context is None else context.processes)
    if caches is not None:
        loss = loss + caches.loss.to(loss)
    if adversary is not None:
        plain = getattr(model, "module", model)  # of processes that exchange their gradients
        # It learns before it judges: a backward through it needs its weights as they were.
        parts["critic"] = adversary.learn(made, video)
        judged = adversary.judge(made, video, pixels=close, last_layer=plain.decoder.conv_out.conv.weight)
        parts["adversarial"] = judged["adversarial"]
        loss = loss + share * settings.adversarial_weight * judged["adversarial"]
    return {"loss": loss} | parts


def _frames(video: Tensor) -> Tensor:
    return video.transpose(1, 2).flatten(0, 1)


def reconstruction_loss(made: Tensor, video: Tensor) -> Tensor:
    """L1 + L2 of the pixels + half the L1 of their differences to the neighbors right and below."""
    error = made - video
    across = error.diff(dim=-1)
    below = error.diff(dim=-2)
    return error.abs().mean() + error.square().mean() + 0.5 * (across.abs().mean() + below.abs().mean())


@torch.no_grad()
def whiten(model: CausalVideoVAE, latents: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Make the latents zero-mean and uncorrelated, exactly undone at decoding;
    returns the scales for the config.

    `latents` are samples of first units and of later units, each `(n, 16)`. The map `W (z − μ)` goes into
    `quant_conv` and its inverse into `post_quant_conv`. A ridge keeps directions of next to no variance from
    being blown up.
    """
    both = torch.cat([half[torch.randperm(len(half))[: min(map(len, latents))]] for half in latents]).double()
    mean = both.mean(0)
    values, vectors = torch.linalg.eigh((both - mean).T @ (both - mean) / len(both))
    ridge = 0.02 * values.mean()
    white = vectors @ torch.diag((values + ridge).rsqrt()) @ vectors.T
    into, out = model.quant_conv.conv, model.post_quant_conv.conv
    channels = len(mean)
    into_bias = bias_of(model.quant_conv)
    out_bias = bias_of(model.post_quant_conv)
    weight = into.weight[:channels].flatten(1).double()
    bias = into_bias[:channels].double()
    into.weight[:channels] = (white @ weight).view(*into.weight[:channels].shape)
    into_bias[:channels] = white @ (bias - mean)
    # the posterior's noise is turned too; what stays diagonal of it is kept as a shift of the log-variances
    into_bias[channels:] += white.square().sum(1).log().to(into_bias)
    weight = out.weight.flatten(1).double()
    out_bias += (weight @ mean).to(out_bias)
    out.weight.copy_((weight @ torch.linalg.inv(white)).view_as(out.weight))
    first, later = (((half.double() - mean) @ white.T) for half in latents)
    return {
        "image_shift": float(first.mean()),
        "image_scale": float(1 / first.std()),
        "video_shift": float(later.mean()),
        "video_scale": float(1 / later.std()),
    }


@torch.no_grad()
def fit_preview(model: CausalVideoVAE, pool: ClipPool, rng: np.random.Generator) -> dict:
    """A linear map from latents to colors, by least squares on pictures of the pool:
    what previews are made with.
    """
    video = pool.batch(32, min(128, pool.world.size), 1, rng, photos=0.5)
    latents = rearrange(model.encode(video).latent_dist.mode().float(), "b c 1 h w -> (b h w) c")
    colors = rearrange(F.avg_pool2d(video[:, :, 0], GRID.downsampling), "b c h w -> (b h w) c")
    design = torch.cat([latents, torch.ones(len(latents), 1)], dim=1).double()
    fit = torch.linalg.lstsq(design, colors.double()).solution
    return {"latent_rgb_factors": fit[:-1].tolist(), "latent_rgb_bias": fit[-1].tolist()}


@torch.no_grad()
def save_samples(model: CausalVideoVAE, pool: ClipPool, path: Path) -> None:
    """Held-out clips and photographs above their reconstructions,
    and their PSNR beside the picture as JSON.
    """
    rows = []
    scores = {}
    for name, video in pool.held_out_videos().items():
        device = next(model.parameters()).device
        made = model.decode(model.encode(video.to(device)).latent_dist.mode()).sample.float().cpu()
        scores[name] = [round(psnr(m.clamp(-1, 1), v, 2.0), 2) for m, v in zip(made, video, strict=True)]
        for clip in (video[:4], made[:4]):
            rows.append(
                rearrange(clip[:, :, :: max(clip.shape[2] // 4, 1)][:, :, :4], "b c t h w -> h (b t w) c")
            )
    width = max(row.shape[1] for row in rows)
    rows = [F.pad(row, (0, 0, 0, width - row.shape[1])) for row in rows]
    picture = ((torch.cat(rows).clamp(-1, 1) + 1) * 127.5).byte().numpy()
    Image.fromarray(picture).save(path)
    path.with_suffix(".json").write_text(json.dumps(scores))
