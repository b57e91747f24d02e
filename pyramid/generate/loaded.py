"""What opens a pipeline under a plan for memory.

pipe = load_for(settings)                                    # the fastest plan that fits this machine
pipe = load_pipeline(checkpoint, make_plan(checkpoint, settings, wanted="low"))
"""

import os

from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.hub.checkpoints import Checkpoint, find
from pyramid.memory.machine import keep_freed_memory
from pyramid.memory.plan import Plan, make_plan
from pyramid.settings import Settings


def load_pipeline(checkpoint: Checkpoint, plan: Plan):
    """The pipeline of a checkpoint, placed as `plan` says; the plan is its attribute `plan`."""
    if plan.transformer.device == "cpu" and "PYRAMID_RETURN_MEMORY" not in os.environ:
        keep_freed_memory()
    return PyramidFlowPipeline.from_pretrained(checkpoint.folder, checkpoint.variant, plan=plan)


def load_for(settings: Settings, memory: str = "auto"):
    """The pipeline that `settings` need on this machine. ValueError where checkpoint,
    device or plan cannot be used.
    """
    checkpoint = find(settings.model, settings.variant)
    return load_pipeline(checkpoint, make_plan(checkpoint, settings, wanted=memory))
