"""Which networks an ablation trains: each part off in turn, none that would be the full one again."""

from __future__ import annotations

from dataclasses import replace

from raymedlt.classifier.ablation import FULL, PLAIN, variants
from raymedlt.classifier.config import ClassifyConfig, LossConfig, ModelConfig, SyntheticConfig


def test_each_variant_differs_from_the_full_one():
    config = ClassifyConfig(synthetic=SyntheticConfig(path="drawn"))
    found = variants(config)
    assert list(found) == [
        FULL, "no-gate", "no-attention", "no-graph", "bce-loss", "uniform-sampling", "no-synthetic", PLAIN,
    ]  # fmt: skip
    assert found[FULL] == config
    others = list(found.values())[1:]
    assert config not in others
    assert len({repr(each) for each in others}) == len(others)
    assert found["no-synthetic"].synthetic.path is None
    assert found[PLAIN].synthetic.path is None
    assert found[PLAIN].loss == replace(config.loss, name="bce", sampling="uniform")


def test_parts_that_cannot_act_are_not_switched_off():
    idle = ModelConfig(gate_strength=0.0, attention_strength=0.0, graph_strength=0.0)
    plain = LossConfig(name="bce", sampling="uniform")
    assert list(variants(ClassifyConfig(model=idle, loss=plain))) == [FULL, PLAIN]
    learnt = replace(idle, learnable_strengths=True)
    assert list(variants(ClassifyConfig(model=learnt, loss=plain))) == [
        FULL, "no-gate", "no-attention", "no-graph", PLAIN,
    ]  # fmt: skip
