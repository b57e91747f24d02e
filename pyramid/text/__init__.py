"""Prompts to embeddings: T5 and CLIP, the cache of what they made, and which words a model knows.

It may use settings and hub.
"""
