"""Prompts for training the embedded model's text encoders: the world's captions, and looser ones.

    captions = Captions(World())
    captions.draw_training(np.random.default_rng(0))   # ("heart falls, over grass", {"shape": "heart", …})

The transformer trains on the world's own captions only; the encoders also learn free wordings, prompts that
leave things unsaid, unknown words and the empty prompt, so that a user need not know the caption grammar.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pyramid.training import world as words_of
from pyramid.training.world import Scene, World, camera_caption, caption

NONE = "none"  # the value of an attribute which a prompt does not mention

Labels = dict[str, str]  # attribute -> value
Random = np.random.Generator

# Wordings beyond the world's own, so that a prompt need not be phrased as the captions are.
MORE_WORDS = {
    "shape": {
        "ball": ("sphere", "round ball"),
        "square": ("block",),
        "star": ("five pointed star",),
        "heart": ("love heart",),
        "ring": ("doughnut",),
        "moon": ("crescent moon", "half moon"),
    },
    "color": {
        "red": ("bright red", "crimson"),
        "blue": ("dark blue",),
        "green": ("dark green",),
        "yellow": ("bright yellow", "golden"),
        "pink": ("light pink",),
        "white": ("bright white",),
    },
    "background": {
        "meadow": ("grass", "the grass", "a green lawn"),
        "sky": ("blue sky", "a clear sky"),
        "sunset": ("an evening sky", "sunset"),
        "desert": ("sand", "sand dunes", "desert"),
        "sea": ("water", "the water", "an ocean", "sea"),
        "night": ("a night sky", "night"),
        "wall": ("a gray wall", "wall", "the wall"),
        "snow": ("a field of snow", "white snow"),
    },
    "motion": {
        "right": (
            "moving right",
            "moving to the right",
            "rolls to the right",
            "goes rightwards",
            "from left to right",
            "going from left to right",
            "flies from left to right",
        ),
        "left": (
            "moving left",
            "moving to the left",
            "rolls to the left",
            "goes leftwards",
            "from right to left",
            "going from right to left",
            "flies from right to left",
        ),
        "up": ("moving up", "rising", "going up", "flying up"),
        "down": ("moving down", "falling", "going down", "sinking"),
        "grow": ("growing", "getting bigger", "getting larger"),
        "shrink": ("shrinking", "getting smaller", "getting smaller and smaller"),
        "stay": ("staying still", "not moving", "standing still", "motionless"),
        "bounce": ("bouncing", "jumping", "jumping up and down", "bouncing up and down"),
        "spin": ("spinning", "turning", "rotating", "spinning around"),
        "zoom in": ("zooming in", "the camera is zooming in", "the camera moves closer"),
        "zoom out": ("zooming out", "the camera is zooming out", "the camera moves away"),
        "pan left": ("panning left", "the camera is panning left", "the camera turns left"),
        "pan right": ("panning right", "the camera is panning right", "the camera turns right"),
    },
}
# May be left out without changing what is said.
SMALL_WORDS = frozenset(["a", "an", "the", "is", "and", "there"])
FILLERS = (
    "a video of",
    "video of",
    "a clip where",
    "please",
    "very",
    "nice",
    "beautiful",
    "simple",
    "slowly",
    "smooth",
    "hyper quality , ultra hd , 8k",
    "high quality",
    "cartoon",
    "of",
    "it",
    "that",
    "while",
    "which",
    "big",
)


def attribute_values(world: World) -> dict[str, tuple[str, ...]]:
    """What the text can say: the names of the world by attribute. A camera's motion is a motion."""
    return {
        "shape": world.shapes,
        "color": world.colors,
        "background": world.backgrounds,
        "motion": world.motions + world.photo_cameras,
    }


def wordings(world: World) -> dict[str, dict[str, tuple[str, ...]]]:
    """All wordings of every value of every attribute."""
    known: dict[str, Mapping[str, tuple[str, ...]]] = {
        "shape": words_of.SHAPE_WORDS,
        "color": words_of.COLOR_WORDS,
        "background": words_of.BACKGROUND_WORDS,
        "motion": words_of.MOTION_WORDS | words_of.CAMERA_WORDS,
    }
    return {
        name: {value: known[name][value] + MORE_WORDS[name].get(value, ()) for value in values}
        for name, values in attribute_values(world).items()
    }


def all_words(world: World) -> list[str]:
    """Every word that should be one token: the captions', the further wordings', the fillers', sorted."""
    options = [options for values in wordings(world).values() for options in values.values()]
    phrases = [*FILLERS, *(phrase for phrases in options for phrase in phrases)]
    words = {word for phrase in phrases for word in phrase.split()} | set(world.vocabulary())
    return sorted(words | SMALL_WORDS | {"thing", "object", "shape", "something"})


def pick(options: Sequence, rng: Random):
    """One of the options, uniformly."""
    return options[int(rng.integers(len(options)))]


def loose_prompt(labels: Labels, phrases: dict[str, dict[str, tuple[str, ...]]], rng: Random) -> str:
    """Some of a scene's attributes in free wording and order, as a person in a hurry writes them."""
    said = {name: pick(phrases[name][value], rng) for name, value in labels.items() if value != NONE}
    article = pick(("a ", "the ", ""), rng)
    shape = said.get("shape", pick(("thing", "object"), rng))
    thing = [article + (f"{said['color']} {shape}" if "color" in said else shape)]
    if "shape" not in said and "color" not in said:
        thing = [] if rng.random() < 0.5 else [pick(("something", "a thing", "an object"), rng)]
    motion = [said["motion"]] if "motion" in said else []
    where = pick((*words_of.PLACES, "on", "in", ""), rng)
    place = [f"{where} {said['background']}"] if "background" in said else []
    order = pick(((thing, motion, place), (thing, place, motion), (place, thing, motion)), rng)
    return pick((" ", " ", " , "), rng).join(part.strip() for parts in order for part in parts)


def roughen(text: str, rng: Random) -> str:
    """Leaves out small words, puts fillers and unknown words in, adds a plural or a full stop."""
    words = text.split()
    if rng.random() < 0.3:
        words = [word for word in words if word not in SMALL_WORDS]
    while rng.random() < 0.35:
        unknown = "".join(pick("abcdefghijklmnopqrstuvwxyz", rng) for _ in range(int(rng.integers(3, 10))))
        words.insert(pick((0, len(words)), rng), unknown if rng.random() < 0.3 else pick(FILLERS, rng))
    if rng.random() < 0.03:  # late positions must have been seen, too
        words += [pick(FILLERS, rng) for _ in range(int(rng.integers(5, 25)))]
    shapes = {phrase for options in words_of.SHAPE_WORDS.values() for phrase in options}
    if rng.random() < 0.1:
        words = [word + "s" if word in shapes else word for word in words]
    return " ".join(words) + (pick((".", "!", " ."), rng) if rng.random() < 0.2 else "")


class Captions:
    """Draws (prompt, labels) pairs from a world; combinations it holds out are never shown in training."""

    def __init__(self, world: World):
        self.values = attribute_values(world)
        self.phrases = wordings(world)
        self.scenes = {False: world.training_scenes(), True: world.held_out_scenes()}
        self.cameras = world.photo_cameras

    def draw(self, rng: Random, held_out: bool = False) -> tuple[str, Labels]:
        """A plain caption."""
        scene: Scene = pick(self.scenes[held_out], rng)
        return caption(scene, rng), {name: getattr(scene, name) for name in self.values}

    def draw_camera(self, rng: Random) -> tuple[str, Labels]:
        """A caption of a photograph with a moving camera."""
        camera = pick(self.cameras, rng)
        return camera_caption(camera, rng), {"motion": camera}

    def draw_loose(self, rng: Random, held_out: bool = False) -> tuple[str, Labels]:
        """Free wording, some attributes left unsaid."""
        _, labels = self.draw(rng, held_out)
        if self.cameras and rng.random() < 0.15:
            labels = {"motion": pick(self.cameras, rng)}
        keep = {name: value for name, value in labels.items() if rng.random() < 0.75} or labels
        return loose_prompt(keep, self.phrases, rng), keep

    def draw_training(self, rng: Random) -> tuple[str, Labels]:
        """The training mixture: captions, cameras, free wording, no words; most of it roughened."""
        kind = rng.random()
        if kind < 0.05:
            return pick(("", "", *FILLERS), rng), {}
        if self.cameras and kind < 0.12:
            text, labels = self.draw_camera(rng)
        else:
            text, labels = self.draw(rng) if kind < 0.6 else self.draw_loose(rng)
        return (roughen(text, rng) if rng.random() < 0.6 else text), labels
