"""Models that are loaded by several threads at once leave transformers as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import PreTrainedModel

from raymedlt.embedding.encoder import Encoder


def test_encoders_that_are_loaded_side_by_side():
    before = PreTrainedModel.tie_weights
    with ThreadPoolExecutor(6) as pool:
        encoders = [each.result() for each in [pool.submit(Encoder) for _ in range(18)]]
    assert len({encoder.encode(["no effusion"]).tobytes() for encoder in encoders}) == 1
    assert PreTrainedModel.tie_weights is before
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=16, tie_word_embeddings=True))
    assert model.lm_head.weight is model.model.embed_tokens.weight
