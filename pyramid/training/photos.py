"""Photographs to train and judge with, all freely licensed, from packages that can be installed.

scikit-image and scikit-learn bundle some of them. Debian's packages in `DEBIAN` add the others where they are
installed, or where a recipe's `photo_folders` names the folder that they were unpacked to, which
`tools/photographs.py` does. `HELD_OUT` is never trained on, nor is anything of lomiri-wallpapers-20.04.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from pyramid.settings import at_home
from pyramid.training.world import CAMERAS

# where Debian's packages have their pictures
DEBIAN = {
    "lomiri-wallpapers-16.04": "usr/share/backgrounds/{name}",
    "mate-backgrounds": "usr/share/backgrounds/mate/nature/{name}",
    "plasma-workspace-wallpapers": "usr/share/wallpapers/{stem}/contents/images/2560x1600.jpg",
}

# package, file, license, attribution (from each package's own notes)
SOURCES: tuple[tuple[str, str, str, str], ...] = (
    ("skimage.data", "astronaut.png", "public domain", "NASA"),
    ("skimage.data", "brick.png", "CC0", "CC0Textures"),
    ("skimage.data", "camera.png", "CC0", "Lav Varshney"),
    ("skimage.data", "chelsea.png", "CC0", "Stefan van der Walt"),
    ("skimage.data", "coffee.png", "CC0", "Rachel Michetti"),
    ("skimage.data", "grass.png", "CC0", "Linolafett"),
    ("skimage.data", "gravel.png", "CC0", "CC0Textures"),
    ("skimage.data", "hubble_deep_field.jpg", "public domain", "NASA"),
    ("skimage.data", "rocket.jpg", "public domain", "SpaceX"),
    ("sklearn.datasets.images", "china.jpg", "CC BY 2.0", "danielbuechele"),
    ("sklearn.datasets.images", "flower.jpg", "CC BY 2.0", "vultilion"),
    ("lomiri-wallpapers-16.04", "aitzgorri_by_Aitzol_Berasategi.jpg", "CC BY 4.0", "Aitzol Berasategi"),
    ("lomiri-wallpapers-16.04", "friends_by_Aitzol_Berasategi.jpg", "CC BY 4.0", "Aitzol Berasategi"),
    ("lomiri-wallpapers-16.04", "life_by_Aitzol_Berasategi.jpg", "CC BY 4.0", "Aitzol Berasategi"),
    ("lomiri-wallpapers-16.04", "picosdeeuropa_by_Aitzol_Berasategi.jpg", "CC BY 4.0", "Aitzol Berasategi"),
    ("lomiri-wallpapers-16.04", "sunset_by_Aitzol_Berasategi.jpg", "CC BY 4.0", "Aitzol Berasategi"),
    ("lomiri-wallpapers-16.04", "Picture_0B_by_freespace.jpg", "CC BY 4.0", "Trevor “Freespace”"),
    ("lomiri-wallpapers-16.04", "Picture_1A_by_freespace.jpg", "CC BY 4.0", "Trevor “Freespace”"),
    ("lomiri-wallpapers-16.04", "seeding_by_Clements_Engelhardt.jpg", "CC0", "Clemens Engelhardt"),
    ("lomiri-wallpapers-16.04", "umang_by_Abhishek_Mudgal.jpg", "CC BY 4.0", "Abhishek Mudgal"),
    ("lomiri-wallpapers-16.04", "Wine_by_Jakkub_Mede.jpg", "CC BY 4.0", "Jakub Mede"),
    ("lomiri-wallpapers-16.04", "Bridge_by_Sander_Klootwijk.jpg", "CC BY-SA 4.0", "Sander Klootwijk"),
    ("lomiri-wallpapers-16.04", "Dragonfly_by_Bolly.jpg", "CC BY-SA 4.0", "Bolly"),
    ("lomiri-wallpapers-16.04", "analogpattern_by_Peter_Nerlich.jpg", "CC BY-SA 4.0", "Peter Nerlich"),
    ("lomiri-wallpapers-16.04", "free_by_Peter_Nerlich.jpg", "CC BY-SA 4.0", "Peter Nerlich"),
    ("lomiri-wallpapers-16.04", "greentock_by_Peter_Nerlich.jpg", "CC BY-SA 4.0", "Peter Nerlich"),
    ("mate-backgrounds", "Aqua.jpg", "GPL-2+", "Charles Barbin"),
    ("mate-backgrounds", "Blinds.jpg", "GPL-2+", "Lennart Poettering, Andrea Cimitan"),
    ("mate-backgrounds", "Dune.jpg", "GPL-2+", "Marco Cogoni, Hylke Bons"),
    ("mate-backgrounds", "FreshFlower.jpg", "GPL-2+", "Jens Ansorg"),
    ("mate-backgrounds", "Garden.jpg", "GPL-2+", "Charles Barbin"),
    ("mate-backgrounds", "GreenMeadow.jpg", "GPL-2+", "Timothy Schellhase, Lapo Calamandrei"),
    ("mate-backgrounds", "LadyBird.jpg", "GPL-2+", "Charles Barbin"),
    ("mate-backgrounds", "RainDrops.jpg", "GPL-2+", "blackcombwhistler07"),
    ("mate-backgrounds", "Storm.jpg", "GPL-2+", "Sergey Nazarov"),
    ("mate-backgrounds", "TwoWings.jpg", "GPL-2+", "Charles Barbin, Hylke Bons"),
    ("mate-backgrounds", "Wood.jpg", "GPL-2+", "Jean-François Fortin Tam"),
    ("mate-backgrounds", "YellowFlower.jpg", "GPL-2+", "Charles Barbin"),
    ("plasma-workspace-wallpapers", "BytheWater.jpg", "LGPL-3", "Maciej Wiklo"),
    ("plasma-workspace-wallpapers", "ColdRipple.jpg", "LGPL-3", "Risto Saukonpää"),
    ("plasma-workspace-wallpapers", "ColorfulCups.jpg", "LGPL-3", "Dmitri Popov"),
    ("plasma-workspace-wallpapers", "DarkestHour.jpg", "LGPL-3", "Risto Saukonpää"),
    ("plasma-workspace-wallpapers", "EveningGlow.jpg", "LGPL-3", "Ian Hex"),
    ("plasma-workspace-wallpapers", "FallenLeaf.jpg", "LGPL-3", "Martin Klapetek"),
    ("plasma-workspace-wallpapers", "Grey.jpg", "LGPL-3", "Sigi Sagi"),
    ("plasma-workspace-wallpapers", "Kite.jpg", "LGPL-3", "Risto Saukonpää"),
    ("plasma-workspace-wallpapers", "OneStandsOut.jpg", "LGPL-3", "Risto Saukonpää"),
    ("plasma-workspace-wallpapers", "Path.jpg", "LGPL-3", "Risto Saukonpää"),
    ("plasma-workspace-wallpapers", "summer_1am.jpg", "LGPL-3", "Risto Saukonpää"),
)
HELD_OUT = ("camera.png", "chelsea.png", "coffee.png", "china.jpg", "rocket.jpg", "gravel.png")
STILL = "still"  # the name of no camera: a photograph that nobody moves, which creeps closer
ZOOM, CREEP, WAY = 1.55, 1.1, 0.375  # what a training clip's camera does: factors, and a share of the width
WHOLE = 0.5  # the share of training clips that see all of a photograph
LARGEST = 768  # pixels of the shorter side: more only costs memory at 128 pixels


@dataclass(frozen=True)
class Photo:
    """A photograph, uint8 `(h, w, 3)`, and whom it is owed to."""

    name: str
    license: str
    attribution: str
    image: np.ndarray


def photographs(split: str, extra: Iterable[str] = ()) -> list[Photo]:
    """The photographs of a split, "train" or "held_out", as far as they are installed;
    `extra` are more folders.
    """
    if split not in ("train", "held_out"):
        raise ValueError(f"split={split!r}: choose 'train' or 'held_out'.")
    found = []
    for package, name, terms, attribution in SOURCES:
        path = _locate(package, name, extra)
        if (name in HELD_OUT) == (split == "held_out") and path is not None:
            found.append(Photo(name, terms, attribution, _load(path)))
    if not found:
        raise ValueError("No photographs are installed: pip install scikit-image scikit-learn.")
    return found


def photographs_in(folder: str | Path) -> list[Photo]:
    """All pictures of a folder, by name: to measure on what nobody trained on. ValueError: there are none."""
    found = [path for ending in ("jpg", "jpeg", "png") for path in Path(folder).glob(f"*.{ending}")]
    if not found:
        raise ValueError(f"{folder} holds no .jpg or .png: give a folder of photographs.")
    return [Photo(path.name, "", "", _load(path)) for path in sorted(found)]


def _locate(package: str, name: str, extra: Iterable[str]) -> Path | None:
    if package in DEBIAN:
        inside = DEBIAN[package].format(name=name, stem=Path(name).stem)
        given = [Path(at_home(folder)) for folder in extra]
        paths = [folder / place for folder in given for place in (inside, name)]
        return next((path for path in [*paths, Path("/") / inside] if path.is_file()), None)
    else:  # found without importing it: scikit-learn's datasets bring all of scikit-learn
        top, *rest = package.split(".")
        spec = find_spec(top)
        roots = spec.submodule_search_locations if spec else None
        folders = [Path(root).joinpath(*rest) for root in roots or ()]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _load(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        # A JPEG is decoded at a fraction of its size, but no smaller than this.
        image.draft("RGB", (LARGEST, LARGEST))
        image = image.convert("RGB")
        if min(image.size) > LARGEST:
            scale = LARGEST / min(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            image = image.resize(size, Image.Resampling.BOX)
        return np.asarray(image)


def crop(photo: Photo, rng: np.random.Generator, size: int) -> np.ndarray:
    """A random square of the photograph at a random scale (and side), `(size, size, 3)`."""
    left, top, side = _square(photo.image, rng, size)
    picture = _window(photo.image, left + side / 2, top + side / 2, side, size)
    return picture[:, ::-1] if rng.random() < 0.5 else picture


def _square(image: np.ndarray, rng: np.random.Generator, smallest: float) -> tuple[int, int, int]:
    """Left, top and side of a random square in the picture, all scales from `smallest` on alike, or all of
    its shorter side where that is less.
    """
    height, width = image.shape[:2]
    shortest = min(height, width)
    side = round(np.exp(rng.uniform(np.log(min(smallest, shortest)), np.log(shortest))))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return int(left), int(top), side


def camera_clip(  # noqa: PLR0913 - one keyword each for size, length and the two kinds of speed
    photo: Photo,
    camera: str,
    rng: np.random.Generator,
    *,
    size: int,
    frames: int,
    zoom: tuple[float, float] = (1.5, 1.8),
    way: tuple[float, float] = (0.28, 0.4),
) -> np.ndarray:
    """The photograph seen by a moving camera, uint8 `(frames, size, size, 3)`.

    "zoom in" and "zoom out" change the view by a factor of about 1.6, "pan left", "pan right", "tilt up" and
    "tilt down" move it by about a third of its width (to the left: the picture travels right); `zoom` and
    `way` are the ranges of these. ValueError for another camera.
    """
    height, width = photo.image.shape[:2]
    side = min(height, width) * rng.uniform(0.7, 0.95)
    x, y = width / 2, height / 2
    slack_x = (width - side) / 2
    slack_y = (height - side) / 2
    time = np.linspace(0, 1, frames)
    if camera in ("zoom in", "zoom out"):
        x += rng.uniform(-1, 1) * slack_x
        y += rng.uniform(-1, 1) * slack_y
        factor = rng.uniform(*zoom) ** -(time if camera == "zoom in" else 1 - time)
        views = [(x, y, side * f) for f in factor]
    elif camera in ("pan left", "pan right"):
        side = min(side, 0.72 * width)
        places, y = _slide(width, height, side, time if camera == "pan right" else 1 - time, way, rng)
        views = [(place, y, side) for place in places]
    elif camera in ("tilt up", "tilt down"):
        side = min(side, 0.72 * height)
        places, x = _slide(height, width, side, time if camera == "tilt down" else 1 - time, way, rng)
        views = [(x, place, side) for place in places]
    else:
        raise ValueError(f"camera={camera!r}: choose {', '.join(CAMERAS)}.")
    return np.stack([_window(photo.image, *view, size) for view in views])


def varied_clip(photo: Photo, camera: str, rng: np.random.Generator, *, size: int, frames: int) -> np.ndarray:
    """A clip to learn motion on, uint8 `(frames, size, size, 3)`: all of the photograph or a piece of it at
    any scale, mirrored or not, in other colors, seen by a camera of one speed. `camera` STILL: it creeps
    closer.

    A share `WHOLE` sees all of it, as who drops a photograph does: that is finer than a piece, and harder
    to move. One speed, amid the range of `camera_clip`, leaves nothing to guess but what comes in at the
    edge, and a pan goes by a whole token of the transformer a unit.
    """
    piece = photo.image
    if rng.random() >= WHOLE:
        left, top, side = _square(piece, rng, 1.4 * size)
        piece = piece[top : top + side, left : left + side]
    piece = recolored(piece, rng)
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    seen = Photo(photo.name, photo.license, photo.attribution, np.ascontiguousarray(piece))
    speed = CREEP if camera == STILL else ZOOM
    camera = "zoom in" if camera == STILL else camera
    return camera_clip(seen, camera, rng, size=size, frames=frames, zoom=(speed, speed), way=(WAY, WAY))


def recolored(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture in other light: brighter or darker, tinted, now and then with its colors exchanged."""
    if rng.random() < 0.3:
        image = image[..., rng.permutation(3)]
    levels = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.uniform(-0.35, 0.35))
    gains = rng.uniform(0.75, 1.1) * rng.uniform(0.85, 1.15, 3)
    table = np.clip(255 * levels * gains + rng.uniform(-12, 12), 0, 255).astype(np.uint8)  # 256 3
    return np.stack([table[image[..., c], c] for c in range(3)], axis=-1)


def _slide(  # noqa: PLR0913 - two sides of the picture, one of the square, and how it goes
    length: int,
    breadth: int,
    side: float,
    time: np.ndarray,
    range_of_ways: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """The middles of a square that slides along `length`, for each of `time` (0 to 1), and where it stays
    across.
    """
    way = min(rng.uniform(*range_of_ways) * side, length - side)
    across = breadth / 2 + rng.uniform(-1, 1) * (breadth - side) / 2
    first = rng.uniform(side / 2, length - side / 2 - way)
    return first + way * time, across


def _window(image: np.ndarray, x: float, y: float, side: float, size: int) -> np.ndarray:
    """The square of `side` around (x, y), resampled to `size`, free of aliasing;
    sub-pixel places are kept.
    """
    height, width = image.shape[:2]
    left, right = max(x - side / 2, 0), min(x + side / 2, width)
    top, bottom = max(y - side / 2, 0), min(y + side / 2, height)
    margin = 2 + 2 * math.ceil(side / size)  # what the filter sees beyond the square
    start_x = max(int(left) - margin, 0)
    start_y = max(int(top) - margin, 0)
    near = image[start_y : math.ceil(bottom) + margin, start_x : math.ceil(right) + margin]
    box = (left - start_x, top - start_y, right - start_x, bottom - start_y)
    return np.asarray(Image.fromarray(near).resize((size, size), Image.Resampling.BICUBIC, box=box))
