"""Search among rows by cosine, and what follows from it. Queries and rows are unit length and go in chunks, so that memory stays bounded; rows may be
kept in bfloat16, and are compared in the queries' precision: exactly, unless `soft_nearest` is allowed bfloat16.

A row can be of a group (the photo it speaks of), and a query may say which group it must not see: its own, where it is to be told what others say.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from capdec.precision import fast_bfloat16

QUERIES, ROWS = 1_024, 4_096
"""At once. C's allocator gives blocks above 32 MiB back each time, and asking for their pages anew costs more than the products."""

COLDEST, HOTTEST, FEWEST = 0.005, 1.0, 8_192
"""Temperatures and rows for which `soft_nearest` may use bfloat16."""


def nearest(
    queries: Float[Tensor, "B D"],
    rows: Float[Tensor, "N D"],
    count: int,
    groups: Int[Tensor, "N"] | None = None,
    unseen: Int[Tensor, "B"] | None = None,
    chunk: int = ROWS,
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """Cosines and row numbers of the `count` nearest rows of each query, nearest first. Rows that a query must not see come last, at -inf."""
    found = []
    for some, hidden in _in_parts(queries, unseen):
        values, places = some.new_empty(len(some), 0), torch.empty(len(some), 0, dtype=torch.long, device=some.device)
        for at in range(0, len(rows), chunk):
            cosines = _cosines(some, rows[at : at + chunk].to(some.dtype), at, groups, hidden)
            here = torch.arange(at, at + cosines.shape[1], device=some.device).expand_as(cosines)
            values, best = torch.cat([values, cosines], 1).topk(min(count, values.shape[1] + cosines.shape[1]), dim=1)
            places = torch.cat([places, here], 1).gather(1, best)
        found.append((values, places))
    return torch.cat([values for values, _ in found]), torch.cat([places for _, places in found])


def soft_nearest(
    queries: Float[Tensor, "B D"],
    rows: Float[Tensor, "N D"],
    temperature: float,
    groups: Int[Tensor, "N"] | None = None,
    unseen: Int[Tensor, "B"] | None = None,
    chunk: int = ROWS,
    dtype: str = "float32",
) -> Float[Tensor, "B D"]:
    """The mean of all rows, each with weight softmax(cosine / temperature): DeCap's projection before it is brought to unit length. Exact: the
    softmax is summed chunk by chunk, against the highest cosine so far. Zero for a query that may see no row.

    With dtype "bfloat16" queries and weights are rounded to it, and cosines and sums stay in float32: a mean then has a cosine of 0.9999 or more
    with the exact one. That is done where it is faster and keeps what it says: processors that are fast in bfloat16, at least FEWEST rows, kept in
    bfloat16, and temperatures from COLDEST (a query's rounding moves a cosine by some 5e-5) to HOTTEST (beyond it rows that lie evenly round zero
    nearly cancel out). Elsewhere the exact sum is made.
    """
    fast = dtype == "bfloat16" and rows.dtype == torch.bfloat16 and queries.dtype == torch.float32 and queries.is_cpu and fast_bfloat16("cpu")
    fast = fast and len(rows) >= FEWEST and COLDEST <= temperature <= HOTTEST
    mean = _attended if fast else _mean
    parts = _in_parts(queries, unseen)
    return torch.cat([mean(some, rows, temperature, groups, hidden, chunk) for some, hidden in parts])


def _mean(
    queries: Tensor, rows: Tensor, temperature: float, groups: Int[Tensor, "N"] | None, unseen: Int[Tensor, "B"] | None, chunk: int
) -> Float[Tensor, "B D"]:
    highest, weight, total = queries.new_full((len(queries), 1), -torch.inf), queries.new_zeros(len(queries), 1), torch.zeros_like(queries)
    for at in range(0, len(rows), chunk):
        some = rows[at : at + chunk].to(queries.dtype)
        logits = _cosines(queries, some, at, groups, unseen).div_(temperature)
        before, highest = highest, torch.maximum(highest, logits.amax(1, keepdim=True))
        level = highest.clamp(min=torch.finfo(queries.dtype).min)  # where nothing was seen yet
        logits, faded = logits.sub_(level).exp_(), (before - level).exp()
        weight = weight * faded + logits.sum(1, keepdim=True)
        total = torch.addmm(total * faded, logits, some)
    return total / weight.clamp(min=torch.finfo(queries.dtype).tiny)


def _attended(
    queries: Tensor, rows: Tensor, temperature: float, groups: Int[Tensor, "N"] | None, unseen: Int[Tensor, "B"] | None, chunk: int
) -> Float[Tensor, "B D"]:
    """It is attention, with the rows as keys and as values. torch's for processors reads a row once, and says the logarithm of each sum of weights,
    by which the means of blocks are joined; blocks stand where heads would, so that every core has some."""
    asked = queries.bfloat16()[None, None]
    weight, total = queries.new_full((len(queries),), -torch.inf), torch.zeros_like(queries)  # weight: its logarithm
    step = chunk * (4 if len(queries) <= 32 else 2)  # torch repacks rows for more queries than 32, in memory of its own
    for at in range(0, len(rows), step):
        some = rows[at : at + step]
        blocks = math.gcd(len(some), 1 << (torch.get_num_threads() - 1).bit_length())
        some = some.reshape(1, blocks, -1, rows.shape[1])
        mask = hidden = None
        if groups is not None and unseen is not None:
            hidden = groups[at : at + step].view(blocks, 1, -1) == unseen.unsqueeze(1)
            mask = torch.zeros(1, *hidden.shape, dtype=asked.dtype).masked_fill_(hidden, -torch.inf)
        means, weights = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            asked.expand(1, blocks, -1, -1), some, some, attn_mask=mask, scale=1 / temperature
        )
        means, weights = means[0].to(queries.dtype), weights[0]  # (blocks, B, D), (blocks, B)
        if hidden is not None:
            nothing = hidden.all(-1)  # what it says there is no matter
            means, weights = means.masked_fill(nothing.unsqueeze(-1), 0), weights.masked_fill(nothing, -torch.inf)
        before, weight = weight, torch.logaddexp(weight, weights.logsumexp(0))
        level = weight.clamp(min=torch.finfo(queries.dtype).min)
        total = total * (before - level).exp().unsqueeze(1) + torch.einsum("hb,hbd->bd", (weights - level).exp(), means)
    return total


def _in_parts(queries: Tensor, unseen: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """At least one part, which may be empty."""
    parts = queries.split(QUERIES)
    return list(zip(parts, unseen.split(QUERIES) if unseen is not None else [None] * len(parts), strict=True))


def _cosines(queries: Tensor, rows: Tensor, at: int, groups: Int[Tensor, "N"] | None, unseen: Int[Tensor, "B"] | None) -> Float[Tensor, "B C"]:
    """With rows `at` and those behind it."""
    cosines = queries @ rows.T
    if groups is not None and unseen is not None:
        cosines.masked_fill_(groups[at : at + len(rows)] == unseen.unsqueeze(1), -torch.inf)
    return cosines


def recall(images: Float[Tensor, "B D"], texts: Float[Tensor, "N D"], owners: Int[Tensor, "N"]) -> dict[str, float]:
    """Recall at 1, 5 and 10 in percent, both ways; text n belongs to image owners[n]. An image counts where any of its texts is found."""
    cosines = texts @ images.T  # (N, B)
    own = cosines.gather(1, owners[:, None])
    text_rank = (cosines > own).sum(1)  # how many images are nearer than the right one
    best = torch.full((len(images),), -torch.inf).scatter_reduce(0, owners, own.squeeze(1), "amax")
    image_rank = (best[:, None] < cosines.T).sum(1)
    scores = {}
    for name, rank in (("text_to_image", text_rank), ("image_to_text", image_rank)):
        for k in (1, 5, 10):
            scores[f"{name}_R@{k}"] = round(100 * (rank < k).float().mean().item(), 2)
    return scores
