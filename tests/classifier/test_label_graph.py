"""Label graphs: the specification's vectors, ML-GCN's equations written plainly, and what GCNConv makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raymedlt.classifier.label_graph import LabelGraph, cooccurrence_adjacency, cooccurrences, ml_gcn_adjacency
from raymedlt.errors import InputError

Y = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]])


def random_labels(rows: int, classes: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    rates = np.geomspace(0.5, 0.005, classes)
    return (rng.random((rows, classes)) < rates * rng.choice([0.3, 1.5], (rows, 1))).astype(np.int8)


def test_vectors_of_the_specification() -> None:
    both, of = cooccurrences(Y)
    conditional = both / (of + 1)
    s = (conditional + conditional.T) / 2
    assert [s[0, 1], s[0, 2], s[1, 2]] == pytest.approx([0.533333, 0.266667, 0], abs=1e-6)
    expected = [[0.714286, 0.20025, 0.105851], [0.20025, 0.789474, 0], [0.105851, 0, 0.882353]]
    adjacency = cooccurrence_adjacency(Y)
    assert adjacency.dtype == np.float32
    np.testing.assert_allclose(adjacency, expected, atol=1e-6)


def test_cooccurrence_adjacency_is_the_formula() -> None:
    y = random_labels(500, 7)
    n = y.sum(0)
    a = np.zeros((7, 7))
    for i in range(7):
        for j in range(7):
            together = (y[:, i] & y[:, j]).sum()
            s = 0.5 * (together / (n[i] + 1) + together / (n[j] + 1))
            a[i, j] = 2.0 if i == j else s if s >= 0.02 else 0.0
    assert (a == 0).any()  # the cut is tested
    d = a.sum(1)
    np.testing.assert_allclose(cooccurrence_adjacency(y), a / np.sqrt(np.outer(d, d)), atol=1e-6)


def test_counting_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    y = random_labels(500, 7)
    whole = cooccurrences(y)
    monkeypatch.setattr("raymedlt.classifier.label_graph._ROWS", 64)
    for a, b in zip(whole, cooccurrences(y), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unknown_labels_have_no_part() -> None:
    y, known = random_labels(400, 4), np.ones((400, 4), bool)
    known[:100, 1] = False
    y[:100, 1] = 1  # whatever stands there
    both, of = cooccurrences(y, known)
    assert both[0, 1] == (y[100:, 0] & y[100:, 1]).sum()
    assert of[0, 1] == y[100:, 0].sum()  # of the images with 0, those that speak of 1
    assert of[0, 2] == y[:, 0].sum()
    np.testing.assert_array_equal(cooccurrence_adjacency(y, np.ones_like(known)), cooccurrence_adjacency(y))


def test_ml_gcn_is_the_equations_of_the_paper() -> None:
    y = random_labels(300, 6)
    y[:, 5] = 0  # a class without a case
    tau, p = 0.4, 0.2
    n = y.sum(0)
    a = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            if i != j and n[i] and (y[:, i] & y[:, j]).sum() / n[i] >= tau:
                a[i, j] = 1
    assert 0 < a.sum() < 30
    assert (a != a.T).any()
    weighted = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            weighted[i, j] = 1 - p if i == j else p * a[i, j] / a[i].sum() if a[i].sum() else 0
    d = weighted.sum(1)
    np.testing.assert_allclose(ml_gcn_adjacency(y), weighted / np.sqrt(np.outer(d, d)), atol=1e-6)


def test_ml_gcn_on_the_vectors_labels() -> None:
    # P: 2 implies 1 (2/2), 3 implies 1 (1/2), 1 implies 2 (2/4); nothing else reaches 0.4.
    np.testing.assert_allclose(ml_gcn_adjacency(Y), [[0.8, 0.2, 0], [0.2, 0.8, 0], [0.2, 0, 0.8]], atol=1e-6)


@pytest.mark.parametrize("labels", [np.zeros((0, 3)), np.zeros(3)])
def test_labels_that_are_no_table(labels: np.ndarray) -> None:
    with pytest.raises(InputError, match="one row per training image, one column per class"):
        cooccurrence_adjacency(labels)


def test_a_mask_of_another_shape() -> None:
    with pytest.raises(InputError, match=r"mask of shape \(5, 2\)"):
        cooccurrence_adjacency(Y, np.ones((5, 2)))


@pytest.mark.parametrize("make", [cooccurrence_adjacency, ml_gcn_adjacency])
def test_the_branch_is_the_formula_also_for_an_asymmetric_graph(make) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    adjacency = torch.tensor(make(Y))
    graph = LabelGraph(adjacency, torch.randn(3, 8), channels=5, strength_value=0.05, learnable=False, hidden=6).eval()
    graph.bias_C.data = torch.tensor([0.1, -0.2, 0.3])
    for conv in (graph.first, graph.second):
        torch.nn.init.normal_(conv.bias)
    f = torch.randn(4, 5)
    w1, b1, w2, b2 = graph.first.lin.weight, graph.first.bias, graph.second.lin.weight, graph.second.bias
    z = adjacency @ (torch.relu(adjacency @ graph.nodes_CE @ w1.T + b1) @ w2.T) + b2
    q = f @ graph.project.weight.T
    for i in range(4):
        for c in range(3):
            cosine = (q[i] @ z[c]) / (q[i].norm() * z[c].norm())
            torch.testing.assert_close(graph(f)[i, c], cosine + graph.bias_C[c])


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    graph = LabelGraph(torch.tensor(cooccurrence_adjacency(Y)), torch.randn(3, 8), 5, 0.05, False)
    assert graph.dropout.p == pytest.approx(0.1)
    assert not torch.equal(graph.label_vectors(), graph.label_vectors())
    graph.eval()
    assert torch.equal(graph.label_vectors(), graph.label_vectors())


def test_nodes_learn() -> None:
    graph = LabelGraph(torch.tensor(cooccurrence_adjacency(Y)), torch.randn(3, 8), 5, 0.05, False)
    graph(torch.randn(4, 5))[:, 0].sum().backward()
    assert graph.nodes_CE.grad is not None
    assert graph.nodes_CE.grad.any()
    assert not graph.adjacency_CC.requires_grad
