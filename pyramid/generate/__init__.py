"""From a request to frames: stages, latents, the sampler's loops, the pipeline (arXiv 2410.05954, §3).

It may use models, text, memory, hub and media; `schedule` and `latents` are pure and use torch alone.
"""
