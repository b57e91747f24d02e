"""The training loop: budget, learning rate, EMA, log, samples, checkpoints and resume, through accelerate.

    loop = Loop(folder, model, make_optimizers, budget=Budget(minutes=30), ema_decay=0.99)
    loop.run(lambda progress: {"loss": …, "kl": …})

`step_fn(progress)` gets how far the run is (0 to 1) and returns its losses; "loss" is what is minimized, the
rest is logged. A run that was interrupted goes on from its last checkpoint: weights, EMA, optimizers, random
state and the time already spent.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from pyramid.memory.machine import keep_freed_memory


@dataclass(frozen=True)
class Budget:
    """How long a run is: `minutes` of training time, or `steps`. Exactly one is given."""

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self):
        if (self.minutes is None) == (self.steps is None):
            raise ValueError(
                f"Give either minutes or steps, not both: minutes={self.minutes}, steps={self.steps}."
            )


def learning_rate_factor(progress: float, *, constant_share: float, warm_up_share: float = 0.01) -> float:
    """Warm-up, constant until `constant_share` of the run, then a cosine to zero."""
    if progress < warm_up_share:
        return (progress + 1e-3) / (warm_up_share + 1e-3)
    if progress < constant_share:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min((progress - constant_share) / (1 - constant_share), 1.0)))


class Loop:
    """One training run in `folder` (`log.jsonl`, `checkpoint/`, `samples/`).

    `keep`: what else belongs to the run's state, objects with `state_dict` and `load_state_dict`.
    """

    log_every = 20  # steps
    save_every = 180.0  # seconds of training

    def __init__(
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
    ):
        self.folder = folder
        self.budget = budget
        self.constant_share = constant_share
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        keep_freed_memory()
        self.accelerator = Accelerator(mixed_precision=mixed_precision)
        model.to(self.accelerator.device)  # before the optimizers are made: Muon aliases the weights' storage
        self.model, *self.optimizers = self.accelerator.prepare(model, *make_optimizers(model))
        self.base_rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.ema = EMAModel(
            model.parameters(), decay=ema_decay, use_ema_warmup=True, power=0.75, foreach=True
        )
        self.ema.to(self.accelerator.device)
        self.step = 0
        self.spent = 0.0  # seconds of training, over all resumptions
        self.accelerator.register_for_checkpointing(self.ema, self, *keep)
        if (folder / "checkpoint").exists():
            self.accelerator.load_state(folder / "checkpoint")
            self.ema.to(self.accelerator.device)  # what is registered comes back on the CPU

    def state_dict(self) -> dict:
        return {"step": self.step, "spent": self.spent}

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]
        self.spent = state["spent"]

    @property
    def progress(self) -> float:
        """How much of the budget is used, 0 to 1."""
        if self.budget.steps is not None:
            return min(self.step / self.budget.steps, 1.0)
        assert self.budget.minutes is not None
        return min(self.spent / (60 * self.budget.minutes), 1.0)

    def run(
        self, step_fn: Callable[[float], dict[str, Tensor]], sample_fn: Callable[[Path], None] | None = None
    ):
        """Train until the budget is used; afterwards the model holds the averaged (EMA) weights."""
        sums: dict[str, float] = {}
        saved = sampled = self.spent
        bar = tqdm(total=100, unit="%", bar_format="{desc} {bar} {n:.1f}% [{elapsed}<{remaining}] {postfix}")
        with (self.folder / "log.jsonl").open("a") as log:
            while self.progress < 1:
                began = time.perf_counter()
                rate = self._set_rates()
                losses = step_fn(self.progress)
                self._update(losses["loss"])
                self.step += 1
                self.spent += time.perf_counter() - began
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach())
                if self.step % self.log_every == 0:
                    means = {name: total / self.log_every for name, total in sums.items()}
                    sums = {}
                    row = {"step": self.step, "seconds": round(self.spent, 1), "rate": rate, **means}
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    bar.n = 100 * self.progress
                    bar.set_postfix({name: f"{value:.4f}" for name, value in means.items()})
                if self.spent - saved > self.save_every:
                    saved = self.spent
                    self.accelerator.save_state(self.folder / "checkpoint", safe_serialization=True)
                if sample_fn is not None and self.spent - sampled > 2 * self.save_every:
                    sampled = self.spent
                    self._sample(sample_fn)
        bar.close()
        self.accelerator.save_state(self.folder / "checkpoint", safe_serialization=True)
        self.ema.copy_to(self.model.parameters())

    def _set_rates(self) -> float:
        factor = learning_rate_factor(self.progress, constant_share=self.constant_share)
        for optimizer, rates in zip(self.optimizers, self.base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        return factor

    def _update(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.ema.step(self.model.parameters())

    def _sample(self, sample_fn: Callable[[Path], None]) -> None:
        """Samples are drawn with the averaged weights and evaluation mode; training goes on as it was."""
        self.ema.store(self.model.parameters())
        self.ema.copy_to(self.model.parameters())
        self.model.eval()
        with torch.no_grad():
            sample_fn(self.folder / "samples" / f"{self.step:06d}.png")
        self.model.train()
        self.ema.restore(self.model.parameters())
