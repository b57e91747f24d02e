"""Prompts to embeddings: T5 and CLIP, and the cache of what they made.

It may use settings and hub.
"""
