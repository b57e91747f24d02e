"""Clips and pictures of others, to train on: lists in seven formats, one `Sample` whatever the source."""
