"""Mappers: a condition (B, K, D) becomes a prefix (B, P, E) that a language model reads as if it were words."""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from capdec.errors import SettingError


class TransformerMapper(nn.Module):
    """ClipCap's and CapDec's mapper (CapDec's code: 8 layers, 8 heads, 40 + 40). Each row of the condition becomes `clip_length` vectors; a pre-norm
    transformer lets `prefix` learned constants read them; what stands at the constants is the prefix."""

    def __init__(self, dim: int, width: int, prefix: int, clip_length: int, layers: int, heads: int, mlp_ratio: float = 2.0):
        super().__init__()
        if width % heads:
            raise SettingError(f"a mapper of width {width} cannot have {heads} heads: {heads} does not divide it.")
        self.clip_length = clip_length
        self.expand = nn.Linear(dim, clip_length * width)
        self.constants = nn.Parameter(torch.randn(prefix, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, heads, int(mlp_ratio * width), 0.0, "relu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, embeddings: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"]) -> tuple[Float[Tensor, "B P E"], Bool[Tensor, "B P"]]:
        batch, rows = mask.shape
        prefix, width = self.constants.shape
        expanded = self.expand(embeddings).view(batch, rows * self.clip_length, width)
        x = torch.cat([expanded, self.constants.expand(batch, -1, -1)], 1)  # (B, K clip_length + P, E)
        keys = None  # which places are looked at, where not all are
        if rows > 1:
            keys = torch.cat([mask.repeat_interleave(self.clip_length, 1), mask.new_ones(batch, prefix)], 1)[:, None, None]
        for layer in self.layers.layers:
            x = _through(layer, x, keys)
        return x[:, -prefix:], mask.new_ones(batch, prefix)


def _through(layer: nn.Module, x: Float[Tensor, "B T E"], keys: Bool[Tensor, "B 1 1 T"] | None) -> Float[Tensor, "B T E"]:
    """torch's own pre-norm layer (ReLU, no dropout) without its detours: it moves the batch to and fro, and copies queries, keys and values, which in
    training took longer than its matrix products."""
    attention: Any = layer.self_attn
    qkv = F.linear(layer.norm1(x), attention.in_proj_weight, attention.in_proj_bias)  # type: ignore[operator]
    q, k, v = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, T, E / heads) each
    x = x + attention.out_proj(F.scaled_dot_product_attention(q, k, v, keys).transpose(1, 2).flatten(2))
    return x + layer.linear2(F.relu(layer.linear1(layer.norm2(x))))  # type: ignore[operator]


class MLPMapper(nn.Module):
    """ClipCap's other mapper: each row becomes `prefix` vectors, through a tanh layer half as wide (or, with `hidden=False`, DeCap's one linear).
    Rows come out in reverse, so that the global one, which is never padding, stands next to the words."""

    def __init__(self, dim: int, width: int, prefix: int, hidden: bool = True):
        super().__init__()
        self.prefix, self.width = prefix, width
        middle = prefix * width // 2
        self.layers = (
            nn.Sequential(nn.Linear(dim, middle), nn.Tanh(), nn.Linear(middle, prefix * width)) if hidden else nn.Linear(dim, prefix * width)
        )

    def forward(self, embeddings: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"]) -> tuple[Float[Tensor, "B P E"], Bool[Tensor, "B P"]]:
        batch, rows = mask.shape
        vectors = self.layers(embeddings.flip(1)).view(batch, rows * self.prefix, self.width)
        return vectors, mask.flip(1).repeat_interleave(self.prefix, 1)


class AttentionMapper(nn.Module):
    """MacCap's mapper: `prefix` learned queries read all rows by cross-attention, in post-norm layers as wide as the embeddings (MacCap: 32 queries,
    one layer of 8 heads at D = 512), and an MLP of three layers brings each to the language model's width. The number of rows changes no sizes.

    Rows come in through a layer norm, which MacCap has not: at unit length they are so short beside the queries that it begins blind to them."""

    def __init__(self, dim: int, width: int, prefix: int, layers: int, heads: int):
        super().__init__()
        if dim % heads:
            raise SettingError(f"an attention mapper is as wide as the embeddings, {dim}, and cannot have {heads} heads: {heads} does not divide it.")
        self.queries = nn.Parameter(torch.randn(prefix, dim) * 0.02)
        layer = nn.TransformerDecoderLayer(dim, heads, 4 * dim, 0.0, "relu", batch_first=True)
        self.norm, self.layers = nn.LayerNorm(dim), nn.TransformerDecoder(layer, layers)
        self.project = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, embeddings: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"]) -> tuple[Float[Tensor, "B P E"], Bool[Tensor, "B P"]]:
        batch, prefix = len(mask), len(self.queries)
        read = self.layers(self.queries.expand(batch, -1, -1), self.norm(embeddings), memory_key_padding_mask=~mask)
        return self.project(read), mask.new_ones(batch, prefix)


class ConstantMapper(nn.Module):
    """Learned vectors, whatever the condition: a language model alone, which says what is likely of any photo. What a frozen one learns text with."""

    def __init__(self, width: int, prefix: int):
        super().__init__()
        self.constants = nn.Parameter(torch.randn(prefix, width) * 0.02)

    def forward(self, embeddings: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"]) -> tuple[Float[Tensor, "B P E"], Bool[Tensor, "B P"]]:
        return self.constants.expand(len(mask), -1, -1), mask.new_ones(len(mask), len(self.constants))


def padding_first(vectors: Float[Tensor, "B P E"], mask: Bool[Tensor, "B P"]) -> tuple[Float[Tensor, "B P E"], Bool[Tensor, "B P"]]:
    """Moves what is real, in its order, to the end: the last vector says the first word, so it must not be padding.

    a b . c .    ->    . . a b c
    """
    order = mask.int().argsort(dim=1, stable=True)
    return vectors.take_along_dim(order.unsqueeze(-1), 1), mask.take_along_dim(order, 1)


Kind = Literal["transformer", "mlp", "linear", "attention", "constant"]


def build_mapper(kind: Kind, dim: int, width: int, prefix: int, clip_length: int, layers: int, heads: int) -> nn.Module:
    """Raises SettingError for an unknown kind, and for sizes that do not go together."""
    if kind == "transformer":
        return TransformerMapper(dim, width, prefix, clip_length, layers, heads)
    if kind in ("mlp", "linear"):
        return MLPMapper(dim, width, prefix, hidden=kind == "mlp")
    if kind == "attention":
        return AttentionMapper(dim, width, prefix, layers, heads)
    if kind == "constant":
        return ConstantMapper(width, prefix)
    raise SettingError(f"no mapper is called {kind!r}. There are: {', '.join(get_args(Kind))}.")
