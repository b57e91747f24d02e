"""The finished units of a run on disk: after a crash, a power cut or a full disk the run goes on from them.

    folder = UnitsFolder(Path("outputs/.a-red-ball-7.units"))
    folder.begin(settings, identity(checkpoint))
    for event in pipeline.stream(settings):
        if isinstance(event, Unit): folder.save(event)          # whole and on the disk, or not there
    folder.remove()                                             # the video is there: nobody needs it any more

    settings, units = UnitsFolder(path).load()
    pipeline.stream(settings, Inputs(finished=units))           # exactly what the run would have made

A unit depends on the seed, the settings and the units before it, and nothing else: so `run.json` (settings,
weights) and a file of float32 latents a unit are all there is to keep. At 1280×768 a unit has 983,040 bytes
of latents.
"""

import itertools
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid.disk import check_file, link, write_through
from pyramid.events import Unit
from pyramid.failures import known
from pyramid.media.files import hold, let_go, result_of
from pyramid.settings import MACHINE, Settings, SettingsError, frames_of
from pyramid.wording import briefly

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
ENDING = ".units"
STAGE = "stage.safetensors"
ANEW = "{} are not those that it was begun with: all of it was made anew."


class UnitsFolder:
    """A folder with the finished units of one run. Written by one process,
    which holds its lock while it works.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.held = False  # whether this object has claimed the folder

    @property
    def _about(self) -> Path:
        return self.path / "run.json"

    def begin(
        self, settings: Settings, identity: dict[str, Any], inputs: dict[str, Any] | None = None
    ) -> None:
        """Make the folder, in place of what may be there. OSError when it cannot be written.

        `identity`: which weights (`checkpoints.identity`), `inputs`: whatever else is to be kept, in JSON's
        types.
        """
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        self.hold()
        about = {
            "version": FORMAT_VERSION,
            "settings": settings.to_dict(),
            "model": identity,
            "inputs": inputs or {},
        }
        self._write_about(about)

    def hold(self) -> None:
        """Claim the folder for this process. ValueError while another one works on it."""
        if not self.held and not hold(self.path / "lock"):
            raise ValueError(f"{self.path.name} is in use: the run that it belongs to has not ended")
        self.held = True

    def close(self) -> None:
        """Leave the folder to whoever goes on from it."""
        let_go(self.path / "lock")
        self.held = False

    @property
    def abandoned(self) -> bool:
        """Whether there is something to go on from, and nobody at work on it."""
        if not self._about.is_file() or not hold(self.path / "lock"):
            return False
        self.close()
        return True

    def save(self, unit: Unit) -> None:
        """Add a unit: (b, c, 1, h, w), as float32 whatever the models compute in.
        OSError when the disk is full.
        """
        from safetensors.torch import save

        latents = unit.latents.detach().float().cpu().contiguous()
        told = {
            "index": str(unit.index),
            "count": str(unit.count),
            "given": str(int(unit.given)),
            "crc": str(_crc(latents)),
        }
        write_through(self._file(unit.index), save({"latents": latents}, told))

    def save_stage(self, unit: int, stage: int, latents: "Tensor") -> None:
        """Keep where a unit stands at the end of one of its stages, in place of what was kept so before:
        latents (b, c, 1, h, w). OSError when the disk is full.
        """
        from safetensors.torch import save

        kept = latents.detach().float().cpu().contiguous()
        told = {"unit": str(unit), "stage": str(stage), "crc": str(_crc(kept))}
        write_through(self.path / STAGE, save({"latents": kept}, told))

    def load_stage(self) -> "tuple[int, int, Tensor] | None":
        """What `save_stage` was given; None where nothing is kept, or not what was."""
        from safetensors import SafetensorError, safe_open

        try:
            check_file(self.path / STAGE)
            with safe_open(self.path / STAGE, "pt") as file:
                told = file.metadata()
                latents = file.get_tensor("latents")
            found = int(told["unit"]), int(told["stage"]), latents
            return found if int(told["crc"]) == _crc(latents) else None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def load(self) -> tuple[Settings, list[Unit]]:
        """The settings, and the units as far as they are whole. ValueError when this is no such folder.

        Units made of a picture or a clip count once a sampled one follows: before that it is not certain that
        they are all there, and nothing is lost by making them again.
        """
        try:
            settings = Settings.from_dict(self.about()["settings"]).validate(skip=("image", "video"))
        except SettingsError as error:
            raise ValueError(f"{self._about} cannot be used: {error}") from None
        units: list[Unit] = []
        while (unit := _read(self._file(len(units)), len(units))) is not None:
            units.append(unit)
        return settings, units if any(not unit.given for unit in units) else []

    def count(self) -> int:
        """How many units lie here, whether or not they can be read."""
        return next(index for index in itertools.count() if not self._file(index).is_file())

    def left_for(self, settings: Settings, identity: dict[str, Any]) -> tuple[list[Unit], str]:
        """The units that an earlier attempt at the same left, and, where there are others, why those are not
        used. Without a folder there are none.
        """
        if not self._about.is_file():
            return [], ""
        before, units = self.load()
        if units and self.about()["model"] != identity:
            return [], ANEW.format("The model's weights")
        if units and _what_units_depend_on(before) != _what_units_depend_on(settings):
            return [], ANEW.format("The settings")
        return units, ""

    def share(self, other: Path, most: int | None = None) -> None:
        """Have the first units of another folder, `most` of them or all, and what their stages looked like.

        A file is written once and never changed: so it lies on the disk once, where that can be. OSError.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for path in other.iterdir():
            index = _unit_of(path.name)
            if path.name == "run.json" or (index is not None and (most is None or index < most)):
                link(path, self.path / path.name)

    def continue_as(self, settings: Settings) -> None:
        """Let a run with these settings go on from the units that are here, though others made them.
        OSError when it cannot be written.
        """
        about = self.about() | {"settings": settings.to_dict()}
        self._write_about(about)

    @property
    def edits(self) -> list[dict[str, Any]]:
        """What was edited of the units that are here, the first edit first: see `pyramid.jobs.editing`.
        None of it is in the settings.
        """
        try:
            return self.about()["inputs"].get("edits", [])
        except ValueError:  # there are no units that could be gone on from
            return []

    def edited(self, edits: list[dict[str, Any]]) -> None:
        """Have it say so. OSError when it cannot be written."""
        about = self.about()
        about["inputs"] |= {"edits": edits}
        self._write_about(about)

    def _write_about(self, about: dict[str, Any]) -> None:
        write_through(self._about, json.dumps(about, indent=2).encode())

    def about(self) -> dict[str, Any]:
        """What `begin` was told: settings, model, inputs. ValueError when this is no such folder."""
        try:
            check_file(self._about)
            return _checked(json.loads(self._about.read_text(encoding="utf-8-sig")))
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{self.path} holds no run that could go on") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else known(error)
            raise ValueError(
                f"{self._about} cannot be read ({why}): it is damaged, so make the video anew"
            ) from None

    def result(self) -> Path | None:
        """The whole video of this run, where it is there already:
        killed between publishing it and `remove`.
        """
        inputs = self.about()["inputs"]
        if not {"run", "result"} <= inputs.keys():
            return None
        found = result_of(inputs["run"], self.path.with_name(Path(inputs["result"]).stem))
        return found[0] if found and not found[1].get("partial") else None

    def remove(self) -> None:
        """Delete it all."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def _file(self, index: int) -> Path:
        return self.path / f"unit-{index:03}.safetensors"


def beside(result: Path) -> UnitsFolder:
    """The hidden folder of the run that makes `result`."""
    return UnitsFolder(result.with_name(f".{result.stem}{ENDING}"))


def abandoned(folder: Path) -> list[UnitsFolder]:
    """Runs in `folder` that ended early, the latest first."""
    found = [UnitsFolder(path) for path in folder.glob(f".*{ENDING}") if path.is_dir()]
    found = [units for units in found if units.abandoned]
    return sorted(found, key=lambda units: (units.path / "run.json").stat().st_mtime, reverse=True)


def what_there_is(settings: Settings, units: list[Unit]) -> dict[str, Any]:
    """The changes to `settings` for a video of the finished units alone. ValueError when there are none."""
    if not units:
        raise ValueError("no unit was finished: there is nothing to decode yet")
    return {"num_frames": frames_of(len(units)), "image": None, "video": None}


def _checked(about: Any) -> dict[str, Any]:
    """What `run.json` says, if its parts are of the types that are written. ValueError, KeyError or
    TypeError.
    """
    if about["version"] != FORMAT_VERSION:
        raise ValueError(f"version {briefly(about['version'])}, this program reads {FORMAT_VERSION}")
    for name in ("settings", "model", "inputs"):
        if not isinstance(about[name], dict):
            raise ValueError(f"{name} = {briefly(about[name])}, where a table is expected")
    told = about["inputs"]
    result = told.get("result", "video.mp4")
    if not isinstance(result, str) or Path(result).name != result or result in ("", "..") or "\0" in result:
        raise ValueError(f"result = {briefly(result)}, where the name of a file is expected")
    edits = told.get("edits", [])
    if not isinstance(edits, list) or not all(isinstance(edit, dict) for edit in edits):
        raise ValueError(f"edits = {briefly(edits)}, where a list of tables is expected")
    return about


def _what_units_depend_on(settings: Settings) -> dict[str, Any]:
    return {k: v for k, v in settings.to_dict().items() if k not in ("preset", *MACHINE)}


def _unit_of(name: str) -> int | None:
    """The unit that a file in a folder is of; None for any other file."""
    found = re.fullmatch(r"unit-(\d+)\.safetensors|estimate-(\d+)-\d+\.png", name)
    return int(found[1] or found[2]) if found else None


def _read(path: Path, index: int) -> Unit | None:
    """A unit; None where it is missing, or not what was saved: it is then made again, and those after it."""
    from safetensors import SafetensorError, safe_open

    try:
        check_file(path)
        with safe_open(path, "pt") as file:
            told = file.metadata()
            latents = file.get_tensor("latents")
        if int(told["index"]) != index or int(told["crc"]) != _crc(latents):
            return None
        return Unit(index, int(told["count"]), latents, given=told["given"] == "1")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _crc(latents: "Tensor") -> int:
    return zlib.crc32(latents.numpy().tobytes())
