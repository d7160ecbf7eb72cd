"""The label graph: which findings go together in the training labels, and two graph convolutions over it.

Shapes: N images, C classes, B images of a batch, D channels, E width of the label nodes.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from raymedlt.classifier.modules import strength
from raymedlt.errors import InputError

with warnings.catch_warnings():  # torch-geometric 2.8 uses torch.jit.script at import, which torch 2.14 warns of
    warnings.simplefilter("ignore", FutureWarning)
    from torch_geometric.nn import GCNConv

_ROWS = 65_536  # images counted at once: bounds the memory of a million images to some 50 MB


def cooccurrences(labels_NC: ArrayLike, known_NC: ArrayLike | None = None) -> tuple[NDArray[np.float64], ...]:
    """How often classes go together.

    Args:
        labels_NC: 0 and 1 (or False and True).
        known_NC: where the label is known; the rest has no part. Default: everywhere.

    Returns:
        both_CC, float64: images with i and j; of_CC, float64: images with i in which j is known (all known: n_i).

    Raises:
        InputError: not a matrix with at least one row, or the mask has another shape.
    """
    labels = np.asarray(labels_NC)
    known = None if known_NC is None else np.asarray(known_NC)
    if labels.ndim != 2 or 0 in labels.shape or (known is not None and known.shape != labels.shape):
        shapes = f"labels of shape {labels.shape}" + ("" if known is None else f" with a mask of shape {known.shape}")
        raise InputError(shapes, "one row per training image, one column per class", "check the label table")
    classes = labels.shape[1]
    both_CC, of_CC = np.zeros((classes, classes)), np.zeros((classes, classes))
    for start in range(0, len(labels), _ROWS):
        part = slice(start, start + _ROWS)
        y = labels[part] == 1
        k = np.ones_like(y) if known is None else known[part].astype(bool)
        y = (y & k).astype(np.float64)
        both_CC += y.T @ y
        of_CC += y.T @ k.astype(np.float64)
    return both_CC, of_CC


def cooccurrence_adjacency(
    labels_NC: ArrayLike, known_NC: ArrayLike | None = None, cut: float = 0.02
) -> NDArray[np.float32]:
    """TRCGL-Net's normalised label graph.

    N = Y'Y; P_ij = N_ij / (n_i + 1), where the 1 damps rare classes; S = (P + P') / 2 with diagonal 1, entries below
    `cut` set to 0; Ahat = D^-1/2 (S + I) D^-1/2, D the row sums of S + I. The diagonal of S + I is 2, since I comes on
    top of S's own diagonal (the authors' release does so).

    With a mask, P_ij is taken over the images in which j is known.

    Returns:
        Ahat_CC, float32, symmetric; computed in float64.

    Raises:
        InputError: see `cooccurrences`.
    """
    both_CC, of_CC = cooccurrences(labels_NC, known_NC)
    conditional_CC = both_CC / (of_CC + 1.0)
    graph_CC = (conditional_CC + conditional_CC.T) / 2.0
    graph_CC[graph_CC < cut] = 0.0
    np.fill_diagonal(graph_CC, 2.0)
    return _normalised(graph_CC)


def ml_gcn_adjacency(
    labels_NC: ArrayLike, known_NC: ArrayLike | None = None, threshold: float = 0.4, weight: float = 0.2
) -> NDArray[np.float32]:
    """ML-GCN's label graph (Chen et al., CVPR 2019).

    Eq. 6: P_ij = M_ij / N_i, the share of the images with i that also show j. Eq. 7: A_ij = 1 where P_ij >= tau, else
    0. Eq. 8: A'_ij = p / sum_{j != i} A_ij off the diagonal (0 where i has no neighbour) and A'_ii = 1 - p. Eq. 2's
    normalisation: Ahat = D^-1/2 A' D^-1/2, D the row sums of A'. A class takes in the classes that it implies (row i
    gathers from the columns j), so Ahat is not symmetric. A class without a case has no neighbours.

    The authors' program differs from their equations (it normalises the transposed matrix and keeps 1 on the diagonal);
    this follows the equations.

    Args:
        labels_NC: see `cooccurrences`.
        known_NC: see `cooccurrences`.
        threshold: tau.
        weight: p, what the neighbours count together; the class itself counts 1 - p.

    Returns:
        Ahat_CC, float32; computed in float64.

    Raises:
        InputError: see `cooccurrences`.
    """
    both_CC, of_CC = cooccurrences(labels_NC, known_NC)
    share_CC = np.divide(both_CC, of_CC, out=np.zeros_like(both_CC), where=of_CC > 0)
    neighbours_CC = (share_CC >= threshold).astype(np.float64)
    np.fill_diagonal(neighbours_CC, 0.0)
    graph_CC = weight * neighbours_CC / np.maximum(neighbours_CC.sum(axis=1, keepdims=True), 1.0)
    np.fill_diagonal(graph_CC, 1.0 - weight)
    return _normalised(graph_CC)


def _normalised(graph_CC: NDArray[np.float64]) -> NDArray[np.float32]:
    scale_C = graph_CC.sum(axis=1) ** -0.5
    return np.asarray(scale_C[:, None] * graph_CC * scale_C[None, :], np.float32)


class LabelGraph(nn.Module):
    """TRCGL-Net's label branch: label_logit_c = norm(W_q f) . norm(Z_c) + beta_c.

    Z = Ahat relu(Ahat Z0 W1 + b1) W2 + b2 with dropout after the ReLU (graph convolutions of Kipf and Welling, ICLR
    2017, by torch-geometric); f is the mean of x' over the positions. A cosine plus a bias: whatever it learns, the
    branch moves a logit by at most alpha (1 + |beta_c|).

    Args:
        adjacency_CC: Ahat, float32, already normalised.
        nodes_CE: start of the label nodes Z0, which are learnt on.
        channels: D.
        strength_value: alpha (the release: 0.05).
        learnable: alpha is learnt from 0.
        hidden: width between the two convolutions.
        dropout: probability.

    Shapes:
        features_BD -> label_logits_BC (not yet multiplied by alpha)
    """

    adjacency_CC: Tensor
    edges_2M: Tensor
    edge_weights_M: Tensor

    def __init__(
        self,
        adjacency_CC: Tensor,
        nodes_CE: Tensor,
        channels: int,
        strength_value: float,
        learnable: bool,
        hidden: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.nodes_CE = nn.Parameter(nodes_CE.clone())
        self.first = GCNConv(nodes_CE.shape[1], hidden, normalize=False, add_self_loops=False)
        self.second = GCNConv(hidden, channels, normalize=False, add_self_loops=False)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(channels, channels, bias=False)
        self.bias_C = nn.Parameter(torch.zeros(len(adjacency_CC)))
        self.strength = strength(strength_value, learnable)
        self.register_buffer("adjacency_CC", adjacency_CC.clone())
        # A message runs from source to target: row i of Ahat gathers from the columns j, so edges are (j, i).
        target_M, source_M = adjacency_CC.nonzero(as_tuple=True)
        self.register_buffer("edges_2M", torch.stack([source_M, target_M]), persistent=False)
        self.register_buffer("edge_weights_M", adjacency_CC[target_M, source_M].clone(), persistent=False)

    def label_vectors(self) -> Tensor:
        """Z_CD, what the two convolutions make of the label nodes."""
        hidden_CE = torch.relu(self.first(self.nodes_CE, self.edges_2M, self.edge_weights_M))
        vectors_CD: Tensor = self.second(self.dropout(hidden_CE), self.edges_2M, self.edge_weights_M)
        return vectors_CD

    def forward(self, features_BD: Tensor) -> Tensor:
        """Label logits of the class docstring."""
        query_BD = nn.functional.normalize(self.project(features_BD), dim=-1)
        return query_BD @ nn.functional.normalize(self.label_vectors(), dim=-1).T + self.bias_C
