"""The synthetic world of the embedded model: one object, one background, one motion, sentences that say so.

    world = World()                                   # everything; CPU_WORLD is what two cores can learn
    scene = Scene("ball", "red", "meadow", "right")
    clip = world.render(scene, np.random.default_rng(0))          # uint8 (25, 128, 128, 3)
    caption(scene, rng)                               # "a red ball moves to the right over a green meadow"

Clips carry little that words do not say: a background is one fixed set of horizontal bands, the object is
big, its start belongs to its motion, and only size and place vary, by a few per cent. A small model then
spends its capacity on the words. Every list of names can be cut down by a recipe. numpy only.
"""

import hashlib
from dataclasses import dataclass
from itertools import product

import numpy as np

# Object colors: saturated, and far from every background below, so that "green" is never lost on the meadow.
COLORS = {
    "red": (222, 38, 42),
    "yellow": (252, 222, 32),
    "blue": (36, 74, 226),
    "green": (14, 142, 62),
    "purple": (142, 44, 196),
    "white": (250, 250, 250),
    "orange": (250, 128, 16),
    "pink": (255, 124, 196),
}

# Backgrounds from top to bottom: (height as a fraction, color); two stops at one height make an edge.
BACKGROUNDS = {
    "meadow": ((0, (150, 200, 240)), (0.42, (214, 234, 246)), (0.42, (128, 184, 84)), (1, (168, 208, 96))),
    "sky": ((0, (96, 166, 234)), (1, (190, 222, 248))),
    "sunset": ((0, (96, 78, 132)), (0.62, (238, 178, 150)), (0.62, (92, 66, 92)), (1, (58, 42, 66))),
    "desert": ((0, (176, 206, 226)), (0.5, (232, 226, 208)), (0.5, (222, 184, 132)), (1, (202, 156, 106))),
    "sea": ((0, (198, 220, 232)), (0.36, (226, 234, 236)), (0.36, (78, 158, 172)), (1, (32, 104, 128))),
    "night": ((0, (12, 14, 38)), (0.7, (44, 48, 92)), (0.7, (20, 26, 36)), (1, (14, 18, 26))),
    "wall": ((0, (158, 156, 152)), (0.78, (172, 170, 166)), (0.78, (112, 96, 84)), (1, (94, 80, 70))),
    "snow": ((0, (150, 166, 190)), (0.5, (184, 196, 214)), (0.5, (206, 216, 230)), (1, (190, 204, 224))),
}

SHAPES = ("ball", "square", "triangle", "star", "heart", "ring", "cross", "diamond", "moon")
MOTIONS = ("right", "left", "up", "down", "grow", "shrink", "stay", "bounce", "spin")
CAMERAS = ("zoom in", "zoom out", "pan left", "pan right", "tilt up", "tilt down")
MARKED = ("ball", "ring")  # a turn of these shows only by a mark, so they carry one when they spin

SHAPE_WORDS = {
    "ball": ("ball", "circle", "disc"),
    "square": ("square", "box", "cube"),
    "triangle": ("triangle", "pyramid"),
    "star": ("star",),
    "heart": ("heart",),
    "ring": ("ring", "hoop", "donut"),
    "cross": ("cross", "plus"),
    "diamond": ("diamond", "rhombus"),
    "moon": ("moon", "crescent"),
}
COLOR_WORDS = {name: (name,) for name in COLORS} | {"purple": ("purple", "violet")}
BACKGROUND_WORDS = {
    "meadow": ("a green meadow", "a meadow", "a green field", "green grass"),
    "sky": ("a blue sky", "the blue sky", "the sky"),
    "sunset": ("a sunset", "the evening sky", "the setting sun"),
    "desert": ("a desert", "a sandy desert", "the sand"),
    "sea": ("the sea", "the ocean", "a calm sea"),
    "night": ("the night sky", "a dark night", "the night"),
    "wall": ("a grey wall", "a plain wall", "a wall"),
    "snow": ("snow", "the snow", "a snowy field"),
}
PLACES = ("over", "in front of", "above", "before")
_MOVES = ("moves", "goes", "glides", "slides", "travels")
_SIDEWAYS = ("to the {}", "{}", "towards the {}")
MOTION_WORDS = {
    "right": (*(f"{m} {s.format('right')}" for m in _MOVES for s in _SIDEWAYS), "moves from left to right"),
    "left": (*(f"{m} {s.format('left')}" for m in _MOVES for s in _SIDEWAYS), "moves from right to left"),
    "up": ("moves up", "goes up", "rises", "moves upwards", "glides up", "flies up", "climbs"),
    "down": ("moves down", "goes down", "falls", "moves downwards", "glides down", "sinks", "drops"),
    "grow": ("grows", "gets bigger", "gets larger", "becomes bigger", "expands", "grows larger"),
    "shrink": ("shrinks", "gets smaller", "becomes smaller", "shrinks slowly", "gets smaller and smaller"),
    "stay": ("stays still", "does not move", "stands still", "rests", "stays in place", "is still"),
    "bounce": ("bounces", "bounces up and down", "jumps", "jumps up and down", "hops"),
    "spin": ("spins", "turns", "rotates", "spins in place", "turns around"),
}
CAMERA_WORDS = {
    f"{verb} {way}": tuple(
        template.format(verb=verb, way=way)
        for template in (
            "the camera slowly {verb}s {way}",
            "the camera {verb}s {way}",
            "slowly {verb} {way}",
            "{verb} {way}",
            "a slow {verb} {way}",
            "a photo , the camera {verb}s {way}",
        )
    )
    for verb, way in (camera.split() for camera in CAMERAS)
}
for _way in ("left", "right", "up", "down"):
    _camera = f"{'pan' if _way in ('left', 'right') else 'tilt'} {_way}"
    _side = f"to the {_way}" if _way in ("left", "right") else _way
    CAMERA_WORDS[_camera] += (f"the camera moves {_side}", f"the camera moves {_side} over a photograph")


@dataclass(frozen=True)
class Scene:
    """What one clip shows, by name: `Scene("ball", "red", "meadow", "right")`."""

    shape: str
    color: str
    background: str
    motion: str


@dataclass(frozen=True)
class World:
    """The names a model is trained on, and the size of its clips. Lists from a recipe become tuples here."""

    shapes: tuple[str, ...] = SHAPES
    colors: tuple[str, ...] = tuple(COLORS)
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    motions: tuple[str, ...] = MOTIONS
    size: int = 128
    frames: int = 25
    fps: int = 8
    photo_cameras: tuple[str, ...] = CAMERAS

    def __post_init__(self) -> None:
        known = {"shapes": SHAPES, "colors": COLORS, "backgrounds": BACKGROUNDS, "motions": MOTIONS}
        for field, names in (known | {"photo_cameras": CAMERAS}).items():
            chosen = tuple(getattr(self, field))
            unknown = [name for name in chosen if name not in names]
            if unknown or (not chosen and field != "photo_cameras") or len(set(chosen)) < len(chosen):
                among = ", ".join(names)
                raise ValueError(f"world.{field} = {list(chosen)}: choose different names among {among}")
            object.__setattr__(self, field, chosen)
        limits = (
            ("size", self.size % 8 == 0 and 32 <= self.size <= 1024, "a multiple of 8 from 32 to 1024"),
            ("frames", self.frames % 8 == 1 and 1 <= self.frames <= 257, "1 + 8k, up to 257"),
            ("fps", 1 <= self.fps <= 60, "1 to 60"),
        )
        for field, holds, words in limits:
            if not holds:
                raise ValueError(f"world.{field} = {getattr(self, field)}: {words} is expected")

    def scenes(self) -> list[Scene]:
        """Every combination of the names, in a fixed order."""
        return [Scene(*names) for names in product(self.shapes, self.colors, self.backgrounds, self.motions)]

    def held_out(self, scene: Scene) -> bool:
        """True for about one combination in twelve: never trained on. Depends on nothing but the names."""
        key = "/".join((scene.shape, scene.color, scene.background, scene.motion))
        digest = hashlib.blake2b(key.encode(), digest_size=8, salt=b"world 1").digest()
        return int.from_bytes(digest, "big") % 12 == 0

    def training_scenes(self) -> list[Scene]:
        """The combinations that may be trained on."""
        return [scene for scene in self.scenes() if not self.held_out(scene)]

    def held_out_scenes(self) -> list[Scene]:
        """The combinations kept for `python -m pyramid evaluate`."""
        return [scene for scene in self.scenes() if self.held_out(scene)]

    def render(self, scene: Scene, rng: np.random.Generator, **options) -> np.ndarray:
        """`render` at this world's size and length."""
        return render(scene, rng, **{"size": self.size, "frames": self.frames} | options)

    def vocabulary(self) -> list[str]:
        """Every word its captions can use, sorted; camera words only where the world has photographs."""
        phrases = [*PLACES, "a an"]
        said = (
            (SHAPE_WORDS, self.shapes),
            (COLOR_WORDS, self.colors),
            (BACKGROUND_WORDS, self.backgrounds),
            (MOTION_WORDS, self.motions),
            (CAMERA_WORDS, self.photo_cameras),
        )
        for words, names in said:
            phrases += [phrase for name in names for phrase in words[name]]
        return sorted({word for phrase in phrases for word in phrase.split()})


CPU_WORLD = World(
    shapes=SHAPES[:5], colors=tuple(COLORS)[:6], backgrounds=tuple(BACKGROUNDS)[:6], motions=MOTIONS[:7]
)


# -- sentences


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of several wordings of the scene; lower case, no punctuation, at most 24 words."""

    def choose(options):
        return options[int(rng.integers(len(options)))]

    color = choose(COLOR_WORDS[scene.color])
    shape = choose(SHAPE_WORDS[scene.shape])
    thing = f"{'an' if color[0] in 'aeiou' else 'a'} {color} {shape}"
    if rng.random() < 0.15:
        thing = f"the {color} {shape}"
    place = f"{choose(PLACES[:1] * 3 + PLACES)} {choose(BACKGROUND_WORDS[scene.background])}"
    motion = choose(MOTION_WORDS[scene.motion])
    return f"{place} {thing} {motion}" if rng.random() < 0.1 else f"{thing} {motion} {place}"


def canonical_caption(scene: Scene) -> str:
    """The first wording of everything: "a red ball moves to the right over a green meadow"."""
    color = COLOR_WORDS[scene.color][0]
    thing = f"{'an' if color[0] in 'aeiou' else 'a'} {color} {SHAPE_WORDS[scene.shape][0]}"
    return f"{thing} {MOTION_WORDS[scene.motion][0]} {PLACES[0]} {BACKGROUND_WORDS[scene.background][0]}"


def camera_caption(camera: str, rng: np.random.Generator) -> str:
    """A wording of a camera's motion over a photograph, such as "the camera slowly zooms in"."""
    wordings = CAMERA_WORDS[camera]
    return wordings[int(rng.integers(len(wordings)))]


# -- pictures


def background(name: str, size: int) -> np.ndarray:
    """The rows of a background: float32 (size, 3) in 0..255; every column of the picture is this."""
    stops = BACKGROUNDS[name]
    rows = (np.arange(size) + 0.5) / size
    # An edge is two stops at one height: np.interp wants them apart.
    heights = np.array([height for height, _ in stops]) + 1e-6 * np.arange(len(stops))
    colors = np.array([color for _, color in stops], dtype=np.float64)
    return np.stack([np.interp(rows, heights, colors[:, c]) for c in range(3)], axis=1).astype(np.float32)


def distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to the outline, negative inside, in units of the object's radius; v points down."""
    if shape == "ball":
        return np.hypot(u, v) - 0.92
    if shape == "square":
        return np.maximum(abs(u), abs(v)) - 0.8
    if shape == "triangle":  # corners (0, -0.96) and (±0.95, 0.74)
        return np.maximum((1.79 * abs(u) - v - 0.96) / np.hypot(1.79, 1.0), v - 0.74)
    if shape == "star":  # ten mirrored sectors; in each, the line from an outer to an inner corner
        inner = np.float32(0.5)
        sector = np.float32(np.pi / 5)
        radius = np.hypot(u, v)
        angle = np.arctan2(u, -v)
        angle = abs((angle + sector) % (2 * sector) - sector)
        rise = inner * np.sin(sector)
        run = 1 - inner * np.cos(sector)
        return (rise * (radius * np.cos(angle) - 1) + run * radius * np.sin(angle)) / np.hypot(rise, run)
    if shape == "heart":  # a square on its corner with a half disc on each upper side
        side = 0.8
        sink = 0.1
        lobes = np.hypot(abs(u) - side / 2, v - sink + side / 2) - side * 0.7071
        return np.minimum(lobes, (abs(u) + abs(v - sink) - side) * 0.7071)
    if shape == "ring":
        return abs(np.hypot(u, v) - 0.67) - 0.27
    if shape == "cross":
        long = np.maximum(abs(u), abs(v))
        short = np.minimum(abs(u), abs(v))
        return np.maximum(long - 0.92, short - 0.33)
    if shape == "diamond":
        return (abs(u) + 0.7 * abs(v) - 0.68) / np.hypot(np.float32(1), np.float32(0.7))
    assert shape == "moon", shape
    return np.maximum(np.hypot(u, v) - 0.92, 0.72 - np.hypot(u - 0.46, v + 0.14))


def path(motion: str, frames: int) -> np.ndarray:
    """Where the object is, how large: float32 (frames, 4) of x, y, radius (fractions of the side), angle.

    Constant speed over all the frames (bouncing follows two arcs); the object stays wholly in the picture.
    """
    t = np.linspace(0, 1, frames, dtype=np.float32) if frames > 1 else np.zeros(1, np.float32)
    x = np.full_like(t, 0.5)
    y = np.full_like(t, 0.52)
    radius = np.full_like(t, 0.225)
    angle = np.zeros_like(t)
    if motion in ("right", "left"):
        x = 0.26 + 0.48 * (t if motion == "right" else 1 - t)
    elif motion in ("up", "down"):
        y = 0.26 + 0.48 * (t if motion == "down" else 1 - t)
    elif motion in ("grow", "shrink"):
        radius = 0.125 + 0.11 * (t if motion == "grow" else 1 - t)
    elif motion == "bounce":
        y = 0.74 - 0.46 * abs(np.sin(2 * np.pi * t))
    elif motion == "spin":
        angle = 2 * np.pi * t
    return np.stack([x, y, radius, angle], axis=1)  # frames 4


def render(
    scene: Scene,
    rng: np.random.Generator,
    *,
    size: int = 128,
    frames: int = 25,
    jitter: float = 1.0,
    background_jitter: float = 0.02,
) -> np.ndarray:
    """The clip of a scene: uint8 (frames, size, size, 3).

    `jitter` scales how far size (±5 %) and place (±4 % of the side across the motion, ±2 % along it) vary
    between clips, `background_jitter` is the range of the background's brightness; 0 and 0 give one clip.
    """
    track = path(scene.motion, frames)
    across = np.array(
        [
            0.02 if scene.motion in ("right", "left") else 0.04,
            0.02 if scene.motion in ("up", "down", "bounce") else 0.04,
        ],
        np.float32,
    )
    track[:, :2] += jitter * across * rng.uniform(-1, 1, 2).astype(np.float32)
    track[:, 2] *= 1 + jitter * 0.05 * np.float32(rng.uniform(-1, 1))
    track[:, :3] *= size
    rows = background(scene.background, size) * np.float32(1 + background_jitter * rng.uniform(-1, 1))
    clip = np.empty((frames, size, size, 3), np.uint8)
    clip[:] = np.clip(rows + 0.5, 0, 255).astype(np.uint8)[:, None]  # the same column everywhere

    side = min(size, int(np.ceil(2 * track[:, 2].max())) + 3)  # the window that holds the object
    left, top = (np.clip(np.floor(track[:, k] - side / 2), 0, size - side).astype(int) for k in (0, 1))
    steps = np.arange(side, dtype=np.float32) + 0.5
    u = ((left[:, None] + steps - track[:, :1]) / track[:, 2:3])[:, None, :]  # frames 1 side
    v = ((top[:, None] + steps - track[:, 1:2]) / track[:, 2:3])[:, :, None]  # frames side 1
    alpha, paint = _paint(scene, u, v, track)
    for frame, (x, y) in enumerate(zip(left, top, strict=True)):
        under = rows[y : y + side, None]
        blend = under + alpha[frame, ..., None] * (paint[frame] - under)
        clip[frame, y : y + side, x : x + side] = np.clip(blend + 0.5, 0, 255)
    return clip


def _paint(scene: Scene, u: np.ndarray, v: np.ndarray, track: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (frames, side, side) and color (frames, side, side, 3) of the object in its window."""
    cos = np.cos(track[:, 3])[:, None, None]
    sin = np.sin(track[:, 3])[:, None, None]
    turned_u, turned_v = (cos * u + sin * v, cos * v - sin * u) if track[:, 3].any() else (u, v)
    radius = track[:, 2][:, None, None]
    depth = distance(scene.shape, turned_u, turned_v) * radius  # in pixels, negative inside
    alpha = np.clip(0.5 - depth, 0, 1)
    rim = np.clip(0.5 + (depth + 0.1 * radius), 0, 1)  # a darker edge, a tenth of the radius wide
    light = 1.06 - 0.10 * (u * 0.5 + v)  # from above; it does not turn with the object
    light = light * (1 - 0.38 * rim)
    if scene.motion == "spin" and scene.shape in MARKED:
        stripe = np.clip(0.5 + (0.2 - abs(turned_u)) * radius, 0, 1)
        light = light * (1 - 0.5 * stripe)
    paint = light[..., None] * np.array(COLORS[scene.color], np.float32)
    return alpha, np.minimum(paint, 255)
