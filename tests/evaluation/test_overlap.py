from __future__ import annotations

import numpy as np
import pytest

from raymedlt.errors import InputError
from raymedlt.evaluation.overlap import chrf, rouge_l, sentence_bleu
from raymedlt.evaluation.sentences import sentence_f1, set_f1


def test_equal_texts_score_one_and_empty_ones_zero() -> None:
    text = "The heart is normal in size. No pleural effusion."
    for metric in (sentence_bleu, chrf, rouge_l):
        found = metric([text, text.upper(), "", text, ""], [text, text, text, "", ""])
        assert found.tolist() == pytest.approx([1, 1, 0, 0, 0]), metric


def test_rouge_l_by_hand() -> None:
    # Longest common subsequence "small left effusion" of 4 and 5 words.
    found = rouge_l(["small left pleural effusion"], ["there is small left effusion"])
    assert found[0] == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))


def test_bleu_by_hand() -> None:
    # 4 of 4 words, 2 of 3 pairs, 1 of 2 triples, 0 of 1 quadruple (smoothed to 1/2), brevity exp(1 - 5/4).
    found = sentence_bleu(["a b c d"], ["d a b c e".replace("d a", "a").replace("c e", "c x d")])
    assert found[0] == pytest.approx((1 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25 * np.exp(1 - 5 / 4))


def test_chrf_prefers_nearly_the_same_word() -> None:
    near, far = chrf(["effusions", "granuloma"], ["effusion", "effusion"])
    assert 0.8 < near < 1
    assert far < 0.1


def test_set_f1_hand_checked() -> None:
    assert set_f1({1, 2, 3}, {2, 3, 4, 5}) == pytest.approx(0.571429, abs=1e-6)
    assert set_f1({9}, {2}) == 0
    assert set_f1(set(), {2}) == set_f1({2}, set()) == set_f1(set(), set()) == 0


def test_sentences_are_the_same_where_their_keys_are() -> None:
    assert sentence_f1("No effusion. HEART is normal", "Heart is  normal. No effusion.") == 1
    assert sentence_f1("No effusion. No effusion.", "No effusion. Lungs are clear.") == pytest.approx(2 / 3)


def test_one_reference_for_each() -> None:
    with pytest.raises(InputError, match=r"2 reports and 1 references\. Expected: one reference for each"):
        chrf(["a", "b"], ["a"])
