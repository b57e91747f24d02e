"""Plans and what they need, estimated and measured: `python -m pyramid plan`.

    python -m pyramid plan --model miniflux --variant 768p --seconds 5   # every plan for this machine
    python -m pyramid plan --measure  # a run of the chosen one, in a new process
    python -m pyramid plan --compare  # what each way saves, costs and changes

`--measure` runs one step a stage: the peak does not depend on their number. `--compare` loads the model in
one way after another and compares latents and frames with those of bfloat16, or whatever the device
computes in otherwise.
"""

import argparse
import json
from dataclasses import asdict, replace

from pyramid.commands.flags import leave_out, only_with
from pyramid.commands.terminal import screen
from pyramid.settings import DTYPES, MODELS, QUANTIZE, Settings, frames_for_seconds

PROMPT = "a red ball moves to the right over a green meadow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m pyramid plan`."""
    add = parser.add_argument
    add("--model", default="embedded", help=f"{', '.join(MODELS)}, a folder, or a repository")
    add("--variant", help="which of the model's transformers")
    add("--width", type=int, help="pixels")
    add("--height", type=int, help="pixels")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--num-frames", type=int, help="1 + 8k frames")
    length.add_argument("--seconds", type=float, help="length, in place of --num-frames")
    add("--dtype", choices=DTYPES, default="auto")
    add("--quantize", choices=QUANTIZE, default="none")
    add("--device", default="auto")
    add("--memory", default="auto", help="the plan to choose: auto, max, balanced, low, tiny, cpu")
    add("--measure", action="store_true", help="run the chosen plan in a new process, one step a stage")
    add("--compare", action="store_true", help="measure each way of saving memory on this model")
    add("--means", dest="compare", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add("--sheet", help="with --compare: a picture of what each sampler makes")
    add("--json", action="store_true")


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings that the plan is for. ValueError where they cannot be used."""
    from pyramid.hub.checkpoints import find

    checkpoint = find(args.model, args.variant)
    start = Settings.for_model(
        args.model,
        checkpoint.variant,
        expects=checkpoint.defaults,
        prompt=PROMPT,
        seed=1,
        dtype=args.dtype,
        quantize=args.quantize,
        device=args.device,
    )
    asked = {name: getattr(args, name) for name in ("width", "height", "num_frames")}
    changes = {name: value for name, value in asked.items() if value is not None}
    if args.seconds is not None:
        changes["num_frames"] = frames_for_seconds(args.seconds, start.fps)
    return replace(start, **changes).validate()


def check_flags(args: argparse.Namespace) -> None:
    """ValueError for flags that would do nothing with the others."""
    if args.json:
        leave_out(args, ["compare"], "--json", "what it measures is printed as tables")
    if not args.compare:
        only_with(args, ["sheet"], "--compare")


def run(args: argparse.Namespace) -> int:
    """Print what was asked for."""
    from pyramid.commands.plan_tables import comparison, plan_table, sampler_table
    from pyramid.generate.footprint import peak
    from pyramid.hub.checkpoints import find, verify
    from pyramid.memory.machine import Machine
    from pyramid.memory.plan import make_plan, plans

    check_flags(args)
    asked = settings = settings_from(args)
    if args.measure or args.compare:
        settings = one_step(settings)
    checkpoint = find(args.model, args.variant)
    machine = Machine.here(settings.device)
    verify(checkpoint)
    every = plans(checkpoint, settings, machine, timed=True)
    chosen = make_plan(checkpoint, settings, machine, args.memory, timed=True)
    measured = peak(settings, chosen.name) if args.measure else None
    if args.json:
        print(
            json.dumps(
                {
                    "machine": asdict(machine),
                    "chosen": asdict(chosen),
                    "measured": measured,
                    "plans": [asdict(plan) for plan in every],
                },
                indent=2,
            )
        )
        return 0

    console = screen()
    console.print(plan_table(every, chosen, machine, settings, measured))
    console.print(f"{chosen.name}: {'; '.join(chosen.reasons)}", highlight=False)
    if args.compare:
        console.print(comparison(settings, chosen))
        console.print(sampler_table(asked, chosen, sheet=args.sheet))
    return 0


def one_step(settings: Settings) -> Settings:
    """One step a stage."""
    once = (1,) * settings.stages
    return replace(settings, num_inference_steps=once, video_num_inference_steps=once)
