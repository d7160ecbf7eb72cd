"""Channel reweighting, class-aware attention and CSRA against their formulas, written plainly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raymedlt.classifier.modules import ChannelReweighting, ClassAwareAttention, ClassSpecificResidualAttention

B, C, D, H, W = 2, 3, 32, 4, 5


@pytest.fixture
def x_BDHW() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(B, D, H, W)


def test_gate_is_the_formula(x_BDHW: Tensor) -> None:
    gate = ChannelReweighting(D, 0.05, learnable=False)
    out = gate(x_BDHW)
    w1, w2 = gate.squeeze.weight, gate.excite.weight
    assert w1.shape == (D // 16, D)
    assert gate.squeeze.bias is None
    assert gate.excite.bias is None
    for i in range(B):
        g = 1 / (1 + torch.exp(-(w2 @ (w1 @ x_BDHW[i].mean((1, 2))).clamp(min=0))))
        for d in range(D):
            torch.testing.assert_close(out[i, d], x_BDHW[i, d] + 0.05 * x_BDHW[i, d] * g[d])
    assert ((out / x_BDHW - 1).abs() < 0.05 + 1e-5).all()  # changes features by 5 % at most


def test_gate_of_few_channels_keeps_a_hidden_unit() -> None:
    assert ChannelReweighting(8, 0.05, learnable=False).squeeze.weight.shape == (1, 8)


def test_class_aware_attention_is_the_formula(x_BDHW: Tensor) -> None:
    attention = ClassAwareAttention(C, D, 0.1, learnable=False)
    w, b, x = torch.randn(C, D), torch.randn(C), x_BDHW.flatten(2)
    logits, maps = attention(x, w, b)
    for i in range(B):
        for c in range(C):
            scores = torch.stack([attention.query_CD[c] @ x[i, :, k] for k in range(H * W)])
            a = torch.exp(scores) / torch.exp(scores).sum()
            v = sum(a[k] * x[i, :, k] for k in range(H * W))
            torch.testing.assert_close(maps[i, c], a)
            torch.testing.assert_close(logits[i, c], w[c] @ v + b[c], atol=1e-5, rtol=1e-4)


def test_csra_is_the_formula_of_the_paper(x_BDHW: Tensor) -> None:
    lam, temperature = 0.3, 2.0
    attention = ClassSpecificResidualAttention(lam, learnable=False, temperature=temperature)
    m, x = torch.randn(C, D) * 0.3, x_BDHW.flatten(2)
    logits, maps = attention(x, m, torch.randn(C))
    for i in range(B):
        g = x[i].mean(dim=1)
        for c in range(C):
            e = torch.stack([torch.exp(temperature * x[i, :, k] @ m[c]) for k in range(H * W)])
            s = e / e.sum()
            f = g + lam * sum(s[k] * x[i, :, k] for k in range(H * W))
            torch.testing.assert_close(maps[i, c], s)
            torch.testing.assert_close(m[c] @ g + attention.strength * logits[i, c], m[c] @ f, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("csra", [False, True])
def test_gradients_of_attention(csra: bool) -> None:
    torch.manual_seed(1)
    attention = ClassSpecificResidualAttention(0.1, False) if csra else ClassAwareAttention(2, 4, 0.1, False)
    attention.double()
    x, w, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 4, 6), (2, 4), (2,)))
    assert torch.autograd.gradcheck(lambda *args: attention(*args)[0], (x, w, b))
    if isinstance(attention, ClassAwareAttention):
        query = attention.query_CD

        def of_query(values: Tensor) -> Tensor:
            logits: Tensor = torch.func.functional_call(attention, {"query_CD": values}, (x, w, b))[0]
            return logits

        assert torch.autograd.gradcheck(of_query, (query.detach().clone().requires_grad_(),))


def test_gradients_of_the_gate() -> None:
    gate = ChannelReweighting(32, 0.05, learnable=True).double()
    gate.strength.data.fill_(0.3)
    assert torch.autograd.gradcheck(gate, (torch.randn(1, 32, 1, 2, dtype=torch.float64, requires_grad=True),))


def test_a_learnable_strength_starts_as_identity_and_wakes_its_module(x_BDHW: Tensor) -> None:
    gate = ChannelReweighting(D, 0.05, learnable=True)
    assert torch.equal(gate(x_BDHW), x_BDHW)
    gate(x_BDHW).square().sum().backward()
    assert gate.strength.grad is not None
    assert gate.strength.grad != 0  # the strength moves first
    assert gate.excite.weight.grad is not None
    assert not gate.excite.weight.grad.any()
    gate.strength.data.fill_(0.01)
    gate(x_BDHW).square().sum().backward()
    assert gate.excite.weight.grad.any()  # and then the module


def test_a_fixed_strength_is_not_trained(x_BDHW: Tensor) -> None:
    gate = ChannelReweighting(D, 0.05, learnable=False)
    gate(x_BDHW).sum().backward()
    assert gate.strength.grad is None
    assert gate.strength == pytest.approx(0.05)
