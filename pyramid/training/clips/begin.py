"""How a process that fills a cache begins, before it imports what that takes (`training.clips.workers`)."""

import signal
import sys


def begin(threads: int) -> None:
    """What a process of one's own has from the command's, a new one not: threads, and an end by a signal."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what it has for a while goes with it
    import torch

    torch.set_num_threads(threads)
