"""Training: the synthetic world, photographs, clips to train on, the trainers. Inference never imports it."""
