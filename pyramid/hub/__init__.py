"""Checkpoints in the released layout: found, verified, downloaded.

It may use settings only; nothing here loads a model.
"""
