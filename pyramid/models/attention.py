"""Attention over prefixes: text, then the units of a clip, each unit seeing the text and itself and the past.

`sequence_layout` works out once a stage what may attend to what; `prefix_attention` then needs no mask: every
group of queries attends to a slice of the keys. Padded text has been dropped before, so nothing attends to it.
Rows of a batch with texts of equal length share one call per group; rows that differ are separate calls.

Source: arXiv 2410.05954, section 3.3 (temporal pyramid, blockwise causal attention); rotary embedding with
interleaved pairs, arXiv 2104.09864.   Run: `python -m pytest tests/test_attention.py`
"""

from dataclasses import dataclass

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn
from torch.nn import functional as F

from pyramid.models.layers import RMSNorm


@dataclass(frozen=True)
class Bucket:
    """Rows of the (sorted) batch whose texts are equally long, and where those texts lie among the packed ones."""

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
    def last_groups(self):
        """The groups of the current clip alone, counted from its first token: (start, stop, keys)."""
        return tuple((max(start - self.history, 0), stop - self.history, stop)
                     for start, stop in self.groups if stop > self.history)

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
    buckets, row, token = [], 0, 0
    while row < len(rows):
        length = lengths[rows[row]]
        count = lengths.count(length)
        buckets.append(Bucket(slice(row, row + count), slice(token, token + count * length), length))
        row, token = row + count, token + count * length
    ends = [sum(unit_tokens[:i + 1]) for i in range(len(unit_tokens))]
    groups = tuple(zip([0] + ends[:-1], ends, strict=True)) if causal else ((0, ends[-1]),)
    order = None if rows == sorted(rows) else torch.tensor(rows, device=mask.device)
    return Layout(
        order=order, inverse=None if order is None else order.argsort(), buckets=tuple(buckets), groups=groups,
        text_rows=torch.arange(len(rows), device=mask.device).repeat_interleave(
            torch.tensor([lengths[r] for r in rows], device=mask.device)),
        history=sum(unit_tokens[:history_units]))


def rotary_table(positions, axes, theta=10000.0):
    """positions (n, len(axes)) -> complex64 (n, 1, sum(axes)/2): the rotation of each pair of a head.

    axes: head dimensions given to each axis, all even. Angles in float64, as the published weights were trained.
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


def join(tensors, dim):
    """torch.cat that copies nothing when there is one tensor."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def prefix_attention(query, key, value, layout, *, backend=None):
    """Exact attention of one sequence a row without a mask.

    query, key, value: pairs (text, image) with text (T, heads, d) packed and image (b, n, heads, d). When
    query's text is None only the current clip asks, and its image part holds only that clip.
    Returns (text, image) of the queries' shapes (text None when it was).
    """
    texts, images = [], []
    for bucket in layout.buckets:
        def with_text(part, bucket=bucket):
            text = part[0][bucket.text].unflatten(0, (-1, bucket.length)) if bucket.length else part[1][bucket.rows, :0]
            return torch.cat([text, part[1][bucket.rows]], dim=1)  # b' l+n heads d

        keys, values, outputs = with_text(key), with_text(value), []
        alone = query[0] is None
        image = query[1][bucket.rows]
        for start, stop, seen in layout.last_groups if alone else [(a, b, b) for a, b in layout.groups]:
            asking = image[:, start:stop]
            seen = seen + bucket.length
            if start == 0 and not alone and bucket.length:
                asking = torch.cat([query[0][bucket.text].unflatten(0, (-1, bucket.length)), asking], dim=1)
            outputs.append(dispatch_attention_fn(asking, keys[:, :seen], values[:, :seen], backend=backend))
        if not alone:
            texts.append(outputs[0][:, :bucket.length].flatten(0, 1))
            outputs[0] = outputs[0][:, bucket.length:]
        images.append(join(outputs, 1))
    return (join(texts, 0) if texts else None), join(images, 0)


class Backend:
    """Which attention kernel to use; diffusers' `set_attention_backend` writes it here."""

    _attention_backend = None
    _parallel_config = None


class Attention(nn.Module, AttentionModuleMixin):
    """Queries, keys and values of the image tokens (and, for a joint block, of the text tokens by weights of their own).

    The names are the published ones; those of the text norms differ between the two families.
    """

    _supports_qkv_fusion = False

    def __init__(self, heads, head_dim, *, eps=1e-6, text_norms=None, text_out=True, out=True):
        """text_norms: names of the norms of the text's queries and keys, None for a block of one stream."""
        super().__init__()
        dim = heads * head_dim
        self.heads, self.text_norms, self.processor = heads, text_norms, Backend()
        self.norm_q, self.norm_k = RMSNorm(head_dim, eps), RMSNorm(head_dim, eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        if text_norms is not None:
            self.add_k_proj, self.add_v_proj, self.add_q_proj = (nn.Linear(dim, dim) for _ in range(3))
            for name in text_norms:
                self.add_module(name, RMSNorm(head_dim, eps))
        if out:
            self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Identity()])
        if text_norms is not None and text_out:
            self.to_add_out = nn.Linear(dim, dim)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1))  # … heads d

    def attend(self, query, key, value, layout):
        """prefix_attention on (text, image) pairs by this module's backend; -> the pair, heads merged."""
        text, image = prefix_attention(query, key, value, layout, backend=self.processor._attention_backend)
        return (None if text is None else text.flatten(-2)), image.flatten(-2)

    def joint(self, text, image, table, layout, *, current_only=False):
        """text (T, dim), image (b, n, dim) -> attention outputs of both, before no further norm but after the
        output projections. current_only: only the current clip asks; the text's output is None."""
        norm_q, norm_k = (getattr(self, name) for name in self.text_norms)
        asking = image[:, layout.history:] if current_only else image
        turn = table[layout.history:] if current_only else table
        text_query = None if current_only else norm_q(self.split(self.add_q_proj(text)))
        query = text_query, rotate(self.norm_q(self.split(self.to_q(asking))), turn)
        key = norm_k(self.split(self.add_k_proj(text))), rotate(self.norm_k(self.split(self.to_k(image))), table)
        value = self.split(self.add_v_proj(text)), self.split(self.to_v(image))
        text_out, image_out = self.attend(query, key, value, layout)
        return None if current_only else self.to_add_out(text_out), self.to_out[0](image_out)
