"""Files: pictures and videos in and out, previews of latents, exports, the clip that grows.

It may use settings only; no model is known here.
"""
