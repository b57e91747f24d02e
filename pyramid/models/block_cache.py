"""A cache over the steps of a stage: where the first block does much the same as before, so do the others.

    cache = BlockCache(0.1)                                       # one a stage, and a text
    model.denoise(x, timestep, pooled, context, cache)            # all blocks, or the first one alone

What the first block adds to the current clip is computed at each step. As long as it differs by less than
`threshold`, as a share of itself, from what it added when all blocks were last computed, what the others
added then is added again. The idea: first-block caching, after TeaCache (arXiv 2411.19108). A stage's latents
have their own size and noise, so a cache ends with its stage. Run: `python -m pytest
tests/models/test_block_cache.py`
"""

from torch import Tensor


class BlockCache:
    """What the first block and those behind it added to the current clip, (b, n, dim), at one step."""

    def __init__(self, threshold: float):
        self.threshold = threshold
        self.skipped = 0  # steps
        self._first: Tensor | None = None
        self._others: Tensor | None = None

    def recall(self, first: Tensor) -> Tensor | None:
        """What the other blocks add, where the first one adds `first`; None: they are to be computed."""
        if self._first is not None:
            change = (first - self._first).abs().mean() / self._first.abs().mean()
            if float(change) < self.threshold:
                self.skipped += 1
                return self._others
        self._first = first
        return None

    def keep(self, others: Tensor) -> None:
        """Remember what the other blocks added."""
        self._others = others
