"""Training: the embedded model's synthetic world, its judge, the two trainers. Inference never imports it."""
