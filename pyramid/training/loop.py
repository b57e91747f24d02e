"""The training loop: budget, learning rate, EMA, log, samples, checkpoints and resume, through accelerate.

    loop = Loop(folder, model, make_optimizers, budget=Budget(minutes=30), ema_decay=0.99)
    loop.run(lambda progress: {"loss": …, "kl": …})

`step_fn(progress)` gets how far the run is (0 to 1) and returns its losses; "loss" is what is minimized, the
rest is logged. It may return functions instead, each of which makes a part of the losses when it is called:
their gradients add up to one step. A run that was interrupted goes on from its last checkpoint: weights, EMA,
optimizers, random state and the time already spent. A step whose loss is no number, or `worst_loss` or more,
is skipped and counted; three in a row end the run with TrainingFailed. With `sharding`, each process holds
its part of all that (`pyramid.training.sharding`).
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn
from tqdm import tqdm

from pyramid.disk import write_json
from pyramid.memory.device import device_of
from pyramid.memory.machine import keep_freed_memory
from pyramid.memory.threads import Threads
from pyramid.training.optim import Average
from pyramid.training.sharding import FOLDER as SHARDS
from pyramid.training.sharding import Shards, gathered, local, shard
from pyramid.training.trackers import Trackers

Losses = dict[str, Tensor]
BAD_STEPS = 3  # in a row end a run
FIXED = "fixed.json"  # in a checkpoint: what of the recipe has to stay as it is


class TrainingFailed(ValueError):
    """A run that cannot go on by itself, and what to do."""


@dataclass(frozen=True)
class Budget:
    """How long a run is: `minutes` of training time (not while it is stopped), or `steps`. Exactly one is
    given.
    """

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self):
        if (self.minutes is None) == (self.steps is None):
            raise ValueError(
                f"Give either minutes or steps, not both: minutes={self.minutes}, steps={self.steps}."
            )


class Clock:
    """Seconds that this process has been at work. A thread of it beats; where two beats are far apart the
    process was stopped, or the machine asleep, and the time between does not count.
    """

    beat = 0.5  # seconds
    gap = 5.0  # at least, of a stop; a busy machine holds a thread up for less

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = time.perf_counter()
        self._stopped = 0.0
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="clock", daemon=True).start()

    def now(self) -> float:
        """Seconds from some moment on, without the stops. Whoever asks first behind a stop finds it."""
        with self._lock:
            now = time.perf_counter()
            if now - self._last > self.gap:
                self._stopped += now - self._last
            self._last = now
            return now - self._stopped

    def close(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self.beat):
            self.now()


def learning_rate_factor(progress: float, *, constant_share: float, warm_up_share: float = 0.01) -> float:
    """Warm-up, constant until `constant_share` of the run, then a cosine to zero."""
    if progress < warm_up_share:
        return (progress + 1e-3) / (warm_up_share + 1e-3)
    if progress < constant_share:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min((progress - constant_share) / (1 - constant_share), 1.0)))


def begin_processes() -> None:
    """Join the processes that a launcher has started. ValueError where each would train alone, in silence,
    and for what accelerate would do that a recipe does here.
    """
    given = os.environ
    if "MASTER_ADDR" in given and "ACCELERATE_MIXED_PRECISION" in given and "WORLD_SIZE" not in given:
        raise ValueError(
            "accelerate launch has started one process only, as it does for CPUs whatever --num_processes "
            "says: use torchrun --nproc_per_node 2 -m pyramid train …"
        )
    for name, use in (("FSDP", '[train] sharding = "full"'), ("DEEPSPEED", '[train] sharding = "full"')):
        if given.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise ValueError(f"{name} of accelerate launch is not used here: leave it off, and give {use}")
    state = PartialState(cpu=not torch.accelerator.is_available())
    wanted = started()
    if state.num_processes != wanted:
        raise ValueError(
            f"{wanted} processes were started, and accelerate made {state.num_processes} of them: use "
            "accelerate launch, or torchrun"
        )


def started() -> int:
    """How many processes torchrun or the like started, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def begin_alone(what: str) -> None:
    """ValueError where several processes were started for what one does: each would do all of it, and write
    over the others.
    """
    if (number := started()) > 1:
        raise ValueError(
            f"{number} processes were started, and {what} is the work of one: leave torchrun away"
        )


class Loop:
    """One training run in `folder` (`log.jsonl`, `checkpoint/`, `samples/`).

    `keep`: what else belongs to the run's state, objects with `state_dict` and `load_state_dict`. `fixed`:
    the recipe's keys that a checkpoint goes with, and their values. A run with others cannot go on from it.
    """

    log_every = 20  # steps
    save_every = 180.0  # seconds of training
    save_steps: int | None = None  # or so many steps
    sample_steps: int | None = None  # samples are made that often; None: every second save
    warm_up: int | None = None  # steps of a linear warm-up to a constant rate, in place of the shares
    final_rate = 1.0  # share of it that a cosine leads to, behind a warm-up
    clip_norm = 1.0  # longest gradient
    worst_loss = math.inf  # a step with such a loss is skipped
    trackers: tuple[str, ...] = ("tensorboard",)  # where losses and samples go besides log.jsonl
    run_name = "pyramid-flow"  # the run's project there
    about: dict[str, Any] = {}  # the recipe there, as a table

    def __init__(  # noqa: PLR0913 - what a run has
        self,
        folder: Path,
        model: nn.Module,
        make_optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]],
        *,
        budget: Budget,
        ema_decay: float,
        constant_share: float,
        mixed_precision: str = "bf16",
        keep: tuple = (),
        sharding: str = "none",
        fixed: dict[str, Any] | None = None,
    ):
        self.folder = folder
        self.fixed = fixed or {}
        self.budget = budget
        self.constant_share = constant_share
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        keep_freed_memory()
        self.accelerator = Accelerator(mixed_precision=mixed_precision)
        self.sharded = sharding != "none"
        self.model, *self.optimizers = self._prepared(model, make_optimizers, sharding)
        self.base_rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        shadow = local(self.trained)
        self.ema = Average(shadow, decay=ema_decay, use_ema_warmup=True, power=0.75)
        self.ema.to(self.accelerator.device)
        self.step = 0
        self.spent = 0.0  # seconds of training, over all resumptions
        self.skipped = 0  # steps
        self.bad_steps = 0  # in a row
        self.watched = Trackers()
        assert not (self.sharded and keep), "what is kept besides is not cut"
        self.accelerator.register_for_checkpointing(self.ema, self, *keep)
        if saved := next(filter(Path.exists, self._checkpoints), None):
            self._load(saved)

    def _prepared(
        self,
        model: nn.Module,
        make_optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]],
        sharding: str,
    ) -> tuple[Any, ...]:
        """The model as this process runs it, and its optimizers."""
        if not self.sharded:
            # Before the optimizers are made: Muon aliases the weights' storage.
            model.to(self.accelerator.device)
            return self.accelerator.prepare(model, *make_optimizers(model))
        compute = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float32
        shard(model, self.accelerator.device, keep_whole=sharding == "gradients", compute=compute)
        # Not to be wrapped for the exchange of gradients, which the shards do by themselves.
        made = self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
        return made, *make_optimizers(model)

    @property
    def shards(self) -> Shards:
        """What this process holds of a sharded run."""
        return Shards(self.accelerator.unwrap_model(self.model), self.optimizers, self.ema)

    def _load(self, saved: Path) -> None:
        """Go on from a checkpoint. Raises ValueError for one that was written with sharding, or without, when
        the run is now the other, and for one of other `fixed` keys.
        """
        self._check_fixed(saved)
        if (saved / SHARDS).exists() != self.sharded:
            raise ValueError(
                f"{saved} was written {'without' if self.sharded else 'with'} sharding: go on as it was "
                "begun, or give another --output"
            )
        if self.sharded:
            self.load_state_dict(self.shards.load(saved, self.state_dict()))
        else:
            self.accelerator.load_state(saved)
        self.ema.to(self.accelerator.device)  # what is registered comes back on the CPU
        if self.accelerator.is_main_process:
            self._forget_later_lines()

    def _check_fixed(self, saved: Path) -> None:
        """ValueError, with the keys, for a checkpoint that was made with other values of them."""
        path = saved / FIXED
        there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        now = json.loads(json.dumps(self.fixed))
        if odd := [key for key in now if key in there and there[key] != now[key]]:
            told = ", ".join(f"{key} = {there[key]}, not {now[key]}" for key in odd)
            raise ValueError(f"{saved} was made with {told}: go on as it was begun, or give another --output")

    @property
    def _checkpoints(self) -> tuple[Path, Path]:
        """The last one, and where the one before is while a new one takes its name."""
        return self.folder / "checkpoint", self.folder / "checkpoint.before"

    def state_dict(self) -> dict:
        return {"step": self.step, "spent": self.spent, "skipped": self.skipped, "bad_steps": self.bad_steps}

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]
        self.spent = state["spent"]
        self.skipped = state.get("skipped", 0)
        self.bad_steps = state.get("bad_steps", 0)

    def restart_average(self) -> None:
        """Let the averaged weights begin with the weights as they are now."""
        self.ema.shadow_params = [weight.detach().clone() for weight in local(self.trained)]

    def whole_weights(self) -> dict[str, Tensor]:
        """All weights of a sharded run, whole, on the first process; all processes call it."""
        return gathered(self.accelerator.unwrap_model(self.model))

    def save(self) -> None:
        """A checkpoint. An end at any moment leaves a whole one: this, or the one before."""
        last, before = self._checkpoints
        part = self.folder / "checkpoint.part"
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self._write(part)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(part, ignore_errors=True)
            if "inline_container" in str(error):  # how torch tells that a file could not be written whole
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part)) from error
            raise
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(before, ignore_errors=True)
            if last.exists():
                os.replace(last, before)
            os.replace(part, last)
            shutil.rmtree(before, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _write(self, folder: Path) -> None:
        """Everything that a run goes on from, by all processes."""
        if self.sharded:
            # All that is random in a step is drawn from its number, so the counters are all there is besides.
            self.shards.save(folder, self.state_dict())
        else:
            self.accelerator.save_state(folder, safe_serialization=True)
        if self.accelerator.is_main_process:
            write_json(folder / FIXED, self.fixed)

    def _forget_later_lines(self) -> None:
        """The log goes on from the checkpoint: what came after it comes again."""
        log = self.folder / "log.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= self.step]
        log.write_text("".join(f"{line}\n" for line in kept))

    @property
    def progress(self) -> float:
        """How much of the budget is used, 0 to 1."""
        if self.budget.steps is not None:
            return min(self.step / self.budget.steps, 1.0)
        assert self.budget.minutes is not None
        return min(self.spent / (60 * self.budget.minutes), 1.0)

    def run(
        self,
        step_fn: Callable[[float], Losses | Sequence[Callable[[], Losses]]],
        sample_fn: Callable[[Path], None] | None = None,
    ):
        """Train until the budget is used; afterwards the model holds the averaged (EMA) weights.

        On a processor a step has as many threads as there are cores that no other program uses. Raises
        TrainingFailed after BAD_STEPS bad steps in a row.
        """
        threads = device_of(self.accelerator.device).threads()
        try:
            self._run(threads, step_fn, sample_fn)
        finally:
            threads.restore()
        self.save()
        self.watched.finish()
        self.ema.copy_to(local(self.trained))

    def _run(
        self,
        threads: Threads,
        step_fn: Callable[[float], Losses | Sequence[Callable[[], Losses]]],
        sample_fn: Callable[[Path], None] | None,
    ) -> None:
        """The steps that are left, with their log, checkpoints and samples."""
        told: dict[str, list[float]] = {}
        self._saved = self._sampled = (self.step, self.spent)
        main = self.accelerator.is_main_process
        if main:
            self.watched = Trackers.start(self.trackers, self.run_name, self.folder, self.about)
        form = "{desc} {bar} {n:.1f}% [{elapsed}<{remaining}] {postfix}"
        bar = tqdm(total=100, unit="%", bar_format=form, disable=not main)
        write = (self.folder / "log.jsonl").open("a") if main else nullcontext()
        with closing(bar), closing(Clock()) as clock, write as log:
            while self.progress < 1:
                began = clock.now()
                threads.adapt()
                rate = self._set_rates()
                losses = self._take(step_fn(self.progress))
                self.step += 1
                self.spent += clock.now() - began
                for name, value in (losses or {}).items():
                    told.setdefault(name, []).append(value)
                if self.step % self.log_every == 0 or self.progress >= 1:
                    means = {name: sum(values) / len(values) for name, values in told.items()}
                    told = {}
                    self._log(log, bar, rate, means)
                self._save_and_sample(sample_fn)

    def _log(self, log, bar: tqdm, rate: float, means: dict[str, float]) -> None:
        """A line of the log, and what the bar shows."""
        row = {"step": self.step, "seconds": round(self.spent, 1), "rate": rate, **means}
        if self.skipped:
            row["skipped"] = self.skipped
        if log is not None:
            log.write(json.dumps(row) + "\n")
            log.flush()
            told = {name: value for name, value in row.items() if name != "step"}
            self.watched.log(told, step=self.step)
        bar.n = 100 * self.progress
        bar.set_postfix({name: f"{value:.4f}" for name, value in means.items()})

    def _save_and_sample(self, sample_fn: Callable[[Path], None] | None) -> None:
        """A checkpoint and samples, when their time has come."""

        def due(last: tuple[int, float], steps: int | None, seconds: float) -> bool:
            return self.step - last[0] >= steps if steps else self.spent - last[1] > seconds

        if due(self._saved, self.save_steps, self.save_every):
            self._saved = (self.step, self.spent)
            self.save()
        if sample_fn is not None and due(self._sampled, self.sample_steps, 2 * self.save_every):
            self._sampled = (self.step, self.spent)
            if self.accelerator.is_main_process or self.sharded:
                self._sample(sample_fn)
            self.accelerator.wait_for_everyone()

    def _set_rates(self) -> float:
        if self.warm_up is not None:
            fall = 0.5 * (1 + math.cos(math.pi * self.progress))
            factor = min(
                (self.step + 1) / max(self.warm_up, 1), self.final_rate + (1 - self.final_rate) * fall
            )
        else:
            factor = learning_rate_factor(self.progress, constant_share=self.constant_share)
        for optimizer, rates in zip(self.optimizers, self.base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        return factor

    def _take(self, losses: Losses | Sequence[Callable[[], Losses]]) -> dict[str, float] | None:
        """The gradients of all parts, and one step with their sum; the losses, None for a step that was
        skipped.
        """
        parts = [lambda: losses] if isinstance(losses, dict) else losses
        told: dict[str, float] = {}
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            # Gradients are exchanged once, behind the last part; sharded ones at once, or each process would
            # hold them whole.
            alone = nullcontext() if last or self.sharded else self.accelerator.no_sync(self.model)
            with alone:
                made = part()
                self.accelerator.backward(made["loss"])
            for name, value in made.items():
                told[name] = told.get(name, 0.0) + float(value.detach())
        if self.accelerator.num_processes > 1:  # each has worked on its share
            share = torch.tensor(told["loss"], device=self.accelerator.device)
            told["loss"] = float(self.accelerator.reduce(share, "mean"))
        if self._is_bad(told["loss"]):
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            return None
        self._update()
        return told

    def _is_bad(self, loss: float) -> bool:
        """Whether a step with this loss, of all processes, is to be skipped. Raises TrainingFailed."""
        if math.isfinite(loss) and loss < self.worst_loss:
            self.bad_steps = 0
            return False
        self.skipped += 1
        self.bad_steps += 1
        if self.bad_steps == BAD_STEPS:
            raise TrainingFailed(
                f"{BAD_STEPS} steps in a row had a loss that is none or too high, the last of them step "
                f"{self.step + 1} ({loss:g}): go on from the last checkpoint with a lower learning rate or "
                "in float32, or let data doctor look at the clips"
            )
        return True

    def _update(self) -> None:
        self.accelerator.clip_grad_norm_(self.trained, self.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.ema.step(local(self.trained))

    def _sample(self, sample_fn: Callable[[Path], None]) -> None:
        """Samples are drawn with the averaged weights and evaluation mode; training goes on as it was.

        Of a sharded run all processes call it, to put the weights together; the first makes the samples.
        """
        weights, path = local(self.trained), self.folder / "samples" / f"{self.step:06d}.png"
        self.ema.store(weights)
        self.ema.copy_to(weights)
        self.model.eval()
        with torch.no_grad():
            sample_fn(path)
        self.model.train()
        self.ema.restore(weights)
        for made in (path, path.with_suffix(".mp4")):
            self.watched.show(made, self.step)
