"""What a run needs, before it is started: bytes of weights, of activations, of the VAE's caches, and seconds.

    sizes = component_sizes(checkpoint)  # parameters and stored bytes, from the files' headers
    shape = Shape.of(checkpoint, settings)
    shape.sampling(bytes_each=2), shape.decoding(2, tile=256)   # activations at their peak, in the last unit

The numbers follow the code of `pyramid.models` tensor by tensor, at the moment when most are alive;
tests/memory/test_memory.py holds them against the tensors that are really alive. What a library keeps beside
its tensors is measured, and stands in the constants below.

Sampling peaks in the last unit, whose history is the longest: `tokens` grows by a unit at a coarser level
with each unit (arXiv 2410.05954, §3.3). Decoding peaks in the second unit already and stays there.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from pyramid.hub.checkpoints import Checkpoint, read_json, weight_files
from pyramid.hub.families import GRID, RGB, Dimensions, Family
from pyramid.settings import Settings

ITEM = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I8": 1,
    "U8": 1,
}
FLOAT32 = 4  # bytes
TEXT = 32  # tokens of a usual prompt; memory is counted for as many as there can be


@dataclass(frozen=True)
class Size:
    """One component on disk."""

    parameters: int
    stored: int  # bytes of the files
    itemsize: int  # bytes a parameter as stored, most of them

    def bytes_in(self, itemsize: float) -> int:
        return int(self.parameters * itemsize)


def component_sizes(checkpoint: Checkpoint) -> dict[str, Size]:
    """The size of each component: "transformer", "vae", and each text encoder by its folder.
    Reads headers only.
    """
    folders = {"transformer": checkpoint.transformer, "vae": checkpoint.vae}
    if checkpoint.has_text:
        folders |= {part.folder: checkpoint.folder / part.folder for part in checkpoint.family.text}
    return {name: _size(folder) for name, folder in folders.items()}


def _size(folder: Path) -> Size:
    stored = 0
    counted: dict[str, tuple[int, int]] = {}  # name -> (numbers, bytes each)
    for path in weight_files(folder):
        stored += path.stat().st_size
        shapes = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
        counted |= {name: value for name, value in shapes.items() if name != "encoder.embed_tokens.weight"}
    parameters = sum(count for count, _ in counted.values())
    common = max(
        (item for _, item in counted.values()),
        key=lambda item: sum(count for count, other in counted.values() if other == item),
        default=4,
    )
    return Size(parameters, stored, common)


def _safetensors(path: Path) -> dict[str, tuple[int, int]]:
    """Name -> (numbers, bytes each), from the header."""
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {
        name: (math.prod(entry["shape"]), ITEM.get(entry["dtype"], 4))
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _pickled(path: Path) -> dict[str, tuple[int, int]]:
    """The same of a .bin file: tensors without their data."""
    import torch

    from pyramid.models.network import load_saved

    tensors = load_saved(path, "meta")
    return {name: (t.numel(), t.element_size()) for name, t in tensors.items() if isinstance(t, torch.Tensor)}


# -- activations


@dataclass(frozen=True)
class Shape:
    """What the memory of a run depends on besides weights."""

    width: int  # pixels
    height: int
    units: int
    stages: int
    rows: int  # of the batch: 2 with guidance
    family: Family
    transformer: Dimensions
    vae: dict  # its config.json

    @classmethod
    def of(cls, checkpoint: Checkpoint, settings: Settings) -> "Shape":
        config = read_json(checkpoint.transformer / "config.json")
        scales = [scale for cue in settings.cues for scale in cue.guidance]
        guided = max(settings.guidance_scale, settings.video_guidance_scale, *scales) > 1
        return cls(
            settings.width,
            settings.height,
            min(settings.units, settings.history_units + 1) if settings.history_units else settings.units,
            settings.stages,
            1 + guided,
            checkpoint.family,
            checkpoint.family.dimensions(config),
            read_json(checkpoint.vae / "config.json"),
        )

    def tokens(self, unit: int | None = None) -> int:
        """Image tokens of one row at the finest stage of a unit (None: the last one), history included."""
        unit = self.units - 1 if unit is None else unit
        return self._seen(self.stages - 1, unit)

    def _seen(self, stage: int, past: int) -> int:
        return self.family.grid.tokens(self.width, self.height, self.stages, stage=stage, past=past)

    def sampling(self, bytes_each: int, *, cpu: bool) -> int:
        """Most bytes of tensors alive in a step of the last unit."""
        tokens = self.tokens()
        grid = self.family.grid
        forward = self.family.forward_bytes(
            self.transformer,
            tokens=tokens,
            history=tokens - self._seen(self.stages - 1, 0),
            rows=self.rows,
            bytes_each=bytes_each,
            chunked=cpu,
        )
        width, height = grid.latent_size(self.width, self.height)
        past = self.units * grid.channels * width * height * FLOAT32 * 2
        return forward + past

    def decoding(self, bytes_each: int, tile: int | None = None, *, window: int = 1) -> int:
        """Most bytes of tensors alive while a unit becomes frames, in tiles of `tile` pixels (None:
        whole frames).

        window 1: every unit is decoded when it is there, so each tile keeps its own cache. window 0: all
        units of one tile, then the next tile: one cache, and the frames wait in main memory.
        """
        sizes = tile_sizes(self.width, self.height, tile)
        largest = max(sizes, key=lambda size: size[0] * size[1])
        cache, work = decoder_elements(self.vae, *largest, one_frame=self.units == 1)
        if window == 0:
            return int((cache + work) * bytes_each)
        frames = sum(unit_elements(w, h) for w, h in sizes) * (2 if len(sizes) > 1 else 1)
        return int((work + frames) * bytes_each) + self.kept(bytes_each, tile)

    def kept(self, bytes_each: int, tile: int | None = None) -> int:
        """Bytes that the VAE keeps from unit to unit, and so while the next one is sampled:
        a cache for each tile.
        """
        sizes = tile_sizes(self.width, self.height, tile)
        return int(sum(decoder_elements(self.vae, *size)[0] for size in sizes) * bytes_each)

    def flops(self) -> tuple[list[float], float]:
        """Floating point operations in the last unit: of one forward at each stage,
        and of decoding the unit.
        """
        forwards = [
            self.rows * self.family.forward_flops(self.transformer, self._seen(stage, self.units - 1) + TEXT)
            for stage in range(self.stages)
        ]
        return forwards, decoder_flops(self.vae, *self.family.grid.latent_size(self.width, self.height))


def unit_elements(width: int, height: int) -> int:
    """Numbers of a unit's frames; sides in latent pixels."""
    return RGB * GRID.unit_frames * width * height * GRID.downsampling**2


def tile_sizes(width: int, height: int, tile: int | None, overlap: float = 0.25) -> list[tuple[int, int]]:
    """Width and height in latent pixels of all tiles that the VAE cuts a frame into."""
    if tile is None or max(width, height) <= tile:
        return [GRID.latent_size(width, height)]
    stride = tile - int(tile * overlap)
    return [
        GRID.latent_size(min(tile, width - x), min(tile, height - y))
        for y in range(0, height, stride)
        for x in range(0, width, stride)
    ]


def decoder_elements(config: dict, width: int, height: int, *, one_frame: bool = False) -> tuple[int, int]:
    """Numbers that the VAE's decoder keeps between units, and most alive besides; sides in latent pixels.
    one_frame: of the first unit, which is one all through.
    """
    kept = peak = 0
    for kind, c_in, c_out, frames, place in _decoder_layers(config, width * height):
        t = 1 if one_frame else frames
        if kind == "resnet":
            kept += 2 * (c_in + c_out) * place
            first = c_in * t + c_in * t + c_in * (t + 2) + c_out * t  # x, silu, with the past, out
            second = (c_in + c_out) * t + c_out * t + c_out * (t + 2) + c_out * t
            peak = max(peak, max(first, second) * place)
        else:
            kept += 2 * c_in * place
            peak = max(
                peak, (c_in * t + c_in * (t + 2) + 2 * c_out * t) * place
            )  # the second: moved into place
    return kept, peak


def decoder_flops(config: dict, width: int, height: int) -> float:
    """Floating point operations to decode one unit: its convolutions, 3 × 3 × 3 each."""
    total = 0
    for kind, c_in, c_out, t, place in _decoder_layers(config, width * height):
        total += 54 * (c_in * c_out + (c_out * c_out if kind == "resnet" else 0)) * t * place
    return float(total)


def _decoder_layers(config: dict, place: int):
    """(kind, channels in, channels out, frames, latent places · upsampling) of the decoder, first to last."""
    channels = [*config.get("decoder_block_out_channels", (128, 256, 512, 512))][::-1]
    layers = config.get("decoder_layers_per_block", (3, 3, 3, 3))
    t = 1
    space = config.get("decoder_spatial_up_sample", (True, True, True, False))
    time = config.get("decoder_temporal_up_sample", (True, True, True, False))
    yield "conv", config.get("decoder_in_channels", GRID.channels), channels[0], t, place
    yield from (("resnet", channels[0], channels[0], t, place) for _ in range(2))
    for index, c in enumerate(channels):
        before = channels[max(index - 1, 0)]
        for layer in range(layers[index]):
            yield "resnet", c if layer else before, c, t, place
        if space[index]:
            yield "conv", c, 4 * c, t, place
            place *= 4
        if time[index]:
            yield "conv", c, 2 * c, t, place
            t *= 2
    yield "conv", channels[-1], config.get("decoder_out_channels", RGB), t, place
