"""Reading back what a model wrote."""

from __future__ import annotations

import pytest

from raymedlt.evaluation.answers import in_form, split_answer


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("", ("", "")),
        ("Heart < 50 %, a > b.", ("Heart < 50 %, a > b.", "")),
        ("<think>a</think><answer>b</answer>", ("a", "b")),
        ("< think > a < / think > < answer > b < / answer >", ("a", "b")),  # as a tokenizer may write it
        ("<think> a </think><answer> b", ("a", "b")),  # broke off
        ("<think> a <answer> b </answer>", ("a", "b")),  # the first end was forgotten
        ("<think> a", ("a", "")),
        ("<answer> b </answer>", ("", "b")),
        ("<answer> b </answer><think> a </think>", ("a", "b")),
        ("so: <think> a </think> and <answer> b </answer> done", ("a", "b")),
        ("<think> a </think><think> c </think><answer> b </answer>", ("a", "b")),
        ("</think>", ("", "")),
    ],
)
def test_what_a_model_may_write(completion, expected):
    assert split_answer(completion) == expected


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think> a </think><answer> b </answer>", True),
        ("\n< think > a < / think >\n< answer > b < / answer > ", True),
        ("", False),
        ("a", False),
        ("<think> a </think><answer> b", False),
        ("<think> a <answer> b </answer>", False),
        ("<think> a </think> so <answer> b </answer>", False),
        ("<think> a </think><answer> b </answer> done", False),
        ("<think> a </think><answer> </answer>", False),
        ("<answer> b </answer><think> a </think>", False),
        ("<think> a </think><think> a </think><answer> b </answer>", False),
    ],
)
def test_the_form_that_was_taught(completion, expected):
    assert in_form(completion) is expected
