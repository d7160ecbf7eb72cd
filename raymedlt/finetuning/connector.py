"""From maps of features to image tokens: linear, or learnable queries that look at them (a query decoder).

    linear    token_k = W norm(x_k + p_k + s)                   every place k of every map becomes a token
    queries   q <- q + self-attention(q); q <- q + cross-attention(q, places); q <- q + MLP(q); per layer
              token_q = W norm(q)                               SemEnrich's decoder: 12 layers, 16 heads, 2 queries

where x_k is the projected feature of place k (one projection per map) and p_k a learnt vector of the place and map. s
is there for an encoder that tells what it sees: the sum of a learnt vector per finding, each times its probability. It
stands at every place, since a language model that has to find one token among a hundred learns late to look at it.

Shapes: B images, C channels of a map, K places of all maps, D width of the language model, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from raymedlt.finetuning.vision import Level

ConnectorKind = Literal["linear", "queries"]


class Connector(nn.Module):
    """Image tokens from the encoder's maps.

    Args:
        levels: of the encoder.
        width: D.
        kind: "linear" or "queries".
        queries: Q.
        layers: of the query decoder.
        heads: of its attention; they divide D.

    Shapes:
        maps_BCHW, one per level -> tokens_BTD, T = `tokens`
    """

    def __init__(
        self, levels: Sequence[Level], width: int, kind: ConnectorKind, queries: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        maps = [level for level in levels if not level.seen]
        places = sum(level.side**2 for level in maps)
        self.tokens = places if kind == "linear" else queries
        """Image tokens: T."""
        self.norms = nn.ModuleList([nn.LayerNorm(level.channels) for level in maps])
        self.projections = nn.ModuleList([nn.Linear(level.channels, width) for level in maps])
        findings = sum(level.channels for level in levels if level.seen)
        self.seen: nn.Linear | None = None
        if findings:
            self.seen = nn.Linear(findings, width, bias=False)
            nn.init.normal_(self.seen.weight, std=0.5)
        self.places_KD = nn.Parameter(0.5 * torch.randn(places, width))  # as strong as the features
        self.queries_QD: nn.Parameter | None = None
        self.decoder = nn.ModuleList()
        if kind == "queries":
            self.queries_QD = nn.Parameter(0.5 * torch.randn(queries, width))
            self.decoder.extend(_QueryLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The image tokens."""
        parts = []
        for each, norm, projection in zip(maps[: len(self.norms)], self.norms, self.projections, strict=True):
            parts.append(projection(norm(each.flatten(2).transpose(1, 2))))
        tokens_BTD = torch.cat(parts, dim=1) + self.places_KD
        if self.seen is not None:
            tokens_BTD = tokens_BTD + self.seen(maps[-1].flatten(1)).unsqueeze(1)
        if self.queries_QD is not None:
            places_BKD, tokens_BTD = tokens_BTD, self.queries_QD.expand(len(tokens_BTD), -1, -1)
            for layer in self.decoder:
                tokens_BTD = layer(tokens_BTD, places_BKD)
        out_BTD: Tensor = self.out(self.norm(tokens_BTD))
        return out_BTD


class _Attention(nn.Module):
    """Multi-head attention. (torch's own reads the weights of a layer that it never calls, which ZeRO-3 can't see.)"""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries_BQD: Tensor, places_BKD: Tensor) -> Tensor:
        parts = self.query(queries_BQD), self.key(places_BKD), self.value(places_BKD)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen_BQD = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        out_BQD: Tensor = self.out(seen_BQD)
        return out_BQD


class _QueryLayer(nn.Module):
    """A pre-norm decoder layer without a causal mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(4)])
        self.own, self.cross = _Attention(width, heads), _Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, queries_BQD: Tensor, places_BKD: Tensor) -> Tensor:
        own, cross, places, mlp = self.norms
        normed_BQD = own(queries_BQD)
        queries_BQD = queries_BQD + self.own(normed_BQD, normed_BQD)
        queries_BQD = queries_BQD + self.cross(cross(queries_BQD), places(places_BKD))
        out_BQD: Tensor = queries_BQD + self.mlp(mlp(queries_BQD))
        return out_BQD
