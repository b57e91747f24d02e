"""Attention over prefixes: text, then the units of a clip, each unit seeing the text and itself and the past.

`sequence_layout` works out once a stage what may attend to what; `prefix_attention` then needs no mask: every
group of queries attends to a slice of the keys. Padded text has been dropped before: nothing attends to it.
Rows of a batch with texts of equal length share one call per group; rows that differ are separate calls.

Source: arXiv 2410.05954, section 3.3 (temporal pyramid, blockwise causal attention); rotary embedding with
interleaved pairs, arXiv 2104.09864.   Run: `python -m pytest tests/models/test_attention.py`
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from pyramid.models.layers import Linear, RMSNorm
from pyramid.models.way_back import RotatedNorm, prefixes, trains_here


@dataclass(frozen=True)
class Bucket:
    """Rows of the sorted batch whose texts are equally long, and where those texts lie among the packed."""

    rows: slice
    text: slice
    length: int


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a batch lie: texts packed end to end, units one after another in every row."""

    order: torch.Tensor | None  # rows sorted by text length, None when they already are
    inverse: torch.Tensor | None
    buckets: tuple[Bucket, ...]
    text_rows: torch.Tensor  # for each packed text token its row, (T,)
    groups: tuple[tuple[int, int], ...]  # queries start…stop of a group, which sees text and units up to stop
    history: int  # tokens before the current clip

    @property
    def past(self):
        """The layout of text and history alone."""
        groups = tuple((start, stop) for start, stop in self.groups if stop <= self.history)
        return replace(self, groups=groups, history=0)

    @property
    def last_groups(self):
        """The groups of the current clip alone, counted from its first token: (start, stop, keys)."""
        return tuple(
            (max(start - self.history, 0), stop - self.history, stop)
            for start, stop in self.groups
            if stop > self.history
        )

    def sort(self, x):
        return x if self.order is None else x[self.order]

    def unsort(self, x):
        return x if self.inverse is None else x[self.inverse]


def sequence_layout(mask, unit_tokens, history_units, causal=True):
    """The layout of a stage.

    mask (b, l): nonzero where a text token is real. unit_tokens: tokens of each unit, oldest first.
    history_units: how many of them precede the current clip. causal=False: one group that sees everything.
    """
    lengths = (mask != 0).sum(dim=1).tolist()
    rows = sorted(range(len(lengths)), key=lengths.__getitem__)
    buckets = []
    row = token = 0
    while row < len(rows):
        length = lengths[rows[row]]
        count = lengths.count(length)
        buckets.append(Bucket(slice(row, row + count), slice(token, token + count * length), length))
        row += count
        token += count * length
    ends = [sum(unit_tokens[: i + 1]) for i in range(len(unit_tokens))]
    groups = tuple(zip([0] + ends[:-1], ends, strict=True)) if causal else ((0, ends[-1]),)
    order = None if rows == sorted(rows) else torch.tensor(rows, device=mask.device)
    return Layout(
        order=order,
        inverse=None if order is None else order.argsort(),
        buckets=tuple(buckets),
        groups=groups,
        text_rows=torch.arange(len(rows), device=mask.device).repeat_interleave(
            torch.tensor([lengths[r] for r in rows], device=mask.device)
        ),
        history=sum(unit_tokens[:history_units]),
    )


def rotary_table(positions, axes, theta=10000.0):
    """positions (n, len(axes)) -> complex64 (n, 1, sum(axes)/2): the rotation of each pair of a head.

    axes: head dimensions given to each axis, all even. Angles in float64, as the published models had them.
    """
    angles = []
    for axis, dim in enumerate(axes):
        frequency = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles.append(positions[:, axis, None].double() * frequency)
    angle = torch.cat(angles, dim=-1)[:, None]  # n 1 d/2
    return torch.complex(angle.cos().float(), angle.sin().float())


def rotate(x, table):
    """Turn the interleaved pairs of x (b, n, heads, d) by `table` (n, 1, d/2), in float32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # b n heads d/2
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)


def rotated(norm, x, table):
    """rotate(norm(x), table), of x (b, n, heads, d)."""
    if trains_here(x) and type(norm) is RMSNorm and not norm._forward_hooks:
        return RotatedNorm.apply(x, norm.weight, table, norm.eps)
    return rotate(norm(x), table)


def join(tensors, dim):
    """torch.cat that copies nothing when there is one tensor."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def pieces(x, sizes, dim=0):
    """torch.split, whose gradients are put together at once (those of slices one after the other)."""
    return (x,) if len(sizes) == 1 else x.split(sizes, dim)


def sequences(pair, buckets):
    """A (text, image) pair for each bucket, as (b', l, heads, d) and (b', n, heads, d); texts may be None."""
    texts = [None] * len(buckets)
    if pair[0] is not None:
        parts = pieces(pair[0], [bucket.text.stop - bucket.text.start for bucket in buckets])
        texts = [
            part.unflatten(0, (-1, bucket.length)) if bucket.length else None
            for part, bucket in zip(parts, buckets, strict=True)
        ]
    images = pieces(pair[1], [bucket.rows.stop - bucket.rows.start for bucket in buckets])
    return list(zip(texts, images, strict=True))


def beside(text, image):
    """Text, then image tokens; the text may be None."""
    return image if text is None else torch.cat([text, image], dim=1)


def sdpa(query, key, value):
    """torch's attention without a mask, of (b, n, heads, d): every query sees every key."""
    query, key, value = (x.permute(0, 2, 1, 3) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).permute(0, 2, 1, 3)


def prefix_attention(query, key, value, layout, attend=sdpa):
    """Exact attention of one sequence a row, without a mask.

    query, key, value: pairs (text, image), text packed (T, heads, d) and image (b, n, heads, d). When the
    query's text is None, only the current clip asks and the query's image holds only that clip.
    Returns the pair (text, image) in the queries' shapes; the text is None when it was. attend: what
    computes one group, of (b, n, heads, d).
    """
    texts = []
    images = []
    current_only = query[0] is None
    groups = layout.last_groups if current_only else [(start, stop, stop) for start, stop in layout.groups]
    of_buckets = zip(*(sequences(pair, layout.buckets) for pair in (query, key, value)), strict=True)
    for bucket, ((text, image), *others) in zip(layout.buckets, of_buckets, strict=True):
        keys, values = (
            prefixes(beside(*pair), [seen + bucket.length for _, _, seen in groups]) for pair in others
        )
        asking = list(pieces(image, [stop - start for start, stop, _ in groups], 1))
        asking[0] = beside(text, asking[0])  # the text sees, and is seen, with the first unit
        outputs = [attend(*group) for group in zip(asking, keys, values, strict=True)]
        if text is not None:
            seen_text, outputs[0] = outputs[0].split([bucket.length, outputs[0].shape[1] - bucket.length], 1)
            texts.append(seen_text.flatten(0, 1))
        images.append(join(outputs, 1))
    return None if current_only else together(texts, query[0]), join(images, 0)


def together(texts, like):
    """The packed texts of all buckets; of `like`'s shape where no bucket has any."""
    return join(texts, 0) if texts else like[:0]


class Backend:
    """Which attention kernel to use, on how many devices; diffusers writes it here,
    when it is asked for either.
    """

    _attention_backend = None
    _parallel_config = None


@dataclass(frozen=True)
class Kept:
    """Keys and values of a block's text, packed (T, heads, d), and of its image tokens (b, n, heads, d)."""

    text_key: torch.Tensor
    key: torch.Tensor
    text_value: torch.Tensor
    value: torch.Tensor


class Attention(nn.Module):
    """Queries, keys and values of text and image tokens, and the attention between them.

    text_norms: None where text and image share their weights (single stream), else the published names of the
    text's norms, which differ between the families; the text then has projections of its own.
    """

    def __init__(self, heads, head_dim, *, eps=1e-6, text_norms=None, text_out=True):
        super().__init__()
        dim = heads * head_dim
        self.heads = heads
        self.text_norms = text_norms
        self.processor = Backend()
        self.norm_q = RMSNorm(head_dim, eps)
        self.norm_k = RMSNorm(head_dim, eps)
        self.to_q, self.to_k, self.to_v = (Linear(dim, dim) for _ in range(3))
        if text_norms is not None:
            self.add_k_proj, self.add_v_proj, self.add_q_proj = (Linear(dim, dim) for _ in range(3))
            for name in text_norms:
                self.add_module(name, RMSNorm(head_dim, eps))
            self.to_out = nn.ModuleList([Linear(dim, dim), nn.Identity()])
            if text_out:
                self.to_add_out = Linear(dim, dim)

    def text_layers(self):
        """(to_q, to_k, to_v, norm_q, norm_k) as they apply to text tokens."""
        if self.text_norms is None:
            return self.to_q, self.to_k, self.to_v, self.norm_q, self.norm_k
        norms = (getattr(self, name) for name in self.text_norms)
        return self.add_q_proj, self.add_k_proj, self.add_v_proj, *norms

    def attend(self, query, key, value):
        """One group of queries, (b, n, heads, d), sees all of the keys; of the query's shape."""
        return sdpa(query, key, value)

    def forward(self, text, image, table, layout, *, current_only=False, past=None, keep=None):
        """text (T, dim), image (b, n, dim), table (n, 1, head_dim/2) -> attention outputs of the same shapes.

        current_only: only the current clip's tokens ask; -> (None, theirs). keep: a list that gets the keys
        and values, a `Kept`. past: those of text and history, where `image` is the current clip alone.
        """
        if past is not None:
            return self._after(past, image, table, layout)
        to_q, to_k, to_v, norm_q, norm_k = self.text_layers()
        first = layout.history if current_only else 0

        def heads(x):
            return x.unflatten(-1, (self.heads, -1))  # … heads d

        query = rotated(self.norm_q, heads(self.to_q(image[:, first:])), table[first:])
        key = rotated(self.norm_k, heads(self.to_k(image)), table)
        text_query = None if current_only else norm_q(heads(to_q(text)))
        text_key = norm_k(heads(to_k(text)))
        value = (heads(to_v(text)), heads(self.to_v(image)))
        if keep is not None:
            keep.append(Kept(text_key, key, *value))
        text_out, image_out = prefix_attention(
            (text_query, query),
            (text_key, key),
            value,
            layout,
            self.attend,
        )
        return None if current_only else text_out.flatten(-2), image_out.flatten(-2)

    def _after(self, past, image, table, layout):
        """What the current clip's tokens (b, n, dim) get of themselves and of what is kept of the past."""

        def heads(x):
            return x.unflatten(-1, (self.heads, -1))  # … heads d

        query = rotated(self.norm_q, heads(self.to_q(image)), table[layout.history :])
        key = rotated(self.norm_k, heads(self.to_k(image)), table[layout.history :])
        keys = past.text_key, torch.cat([past.key, key], dim=1)
        values = past.text_value, torch.cat([past.value, heads(self.to_v(image))], dim=1)
        _, out = prefix_attention((None, query), keys, values, layout, self.attend)
        return None, out.flatten(-2)
