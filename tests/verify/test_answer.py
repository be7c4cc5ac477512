r"""Finding the answer: the last complete \boxed{...} or run of them, whatever surrounds it; else a phrase."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrapose.verify.answer import boxed, find

MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{4}", "4"),
        (r"So the answer is $\boxed{4}$.", "4"),
        (r"\fbox{4}", "4"),
        (r"\boxed{1} then \fbox{2}", "2"),
        (r"\fbox{2} then \boxed{1}", "1"),
        (r"\boxed{1}, \boxed{2}, and at last \boxed{3}", "3"),
        ("\\boxed{1}\nWait.\n\\boxed{2}\nDone.", "2"),
    ],
)
def test_the_last_box_is_the_answer(text, answer):
    assert boxed(text) == answer


@pytest.mark.parametrize(
    "content",
    [
        r"\frac{1}{2}",
        r"\frac{\sqrt{3}}{2^{n+1}}",
        "{{{7}}}",
        r"\text{blue}",
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        r"\begin{pmatrix}{1}\\{2}\end{pmatrix}",
        r"1 \\ 2",
        r"1\\",
    ],
)
def test_braces_are_balanced(content):
    assert boxed(rf"so \boxed{{{content}}} it is, in {{1}}") == content


@pytest.mark.parametrize("content", [r"\{1,2\}", r"a\}b", r"\{", r"\}", r"\left\{x : x > 1\right.", r"\\\}"])
def test_escaped_braces_are_text(content):
    assert boxed(rf"\boxed{{{content}}}") == content


@pytest.mark.parametrize("before", ["\\", "\\\\", "\\\\\\", "x\\\\\\", r"\}\{", r"\{", "}", "}}", "{", r"\\ "])
def test_what_stands_before_a_box_does_not_hide_it(before):
    assert boxed(before + r"\boxed{4}") == "4"


def test_a_doubled_backslash_box_counts_as_an_inner_box_too():
    assert boxed(r"\boxed{1 \\boxed{2} 3}") == r"1 \\boxed{2} 3"


@pytest.mark.parametrize(
    "text", ["", "4", "the answer is 4", r"\boxed{4", r"\boxed{\frac{1}{2}", r"\boxed{4\}", "boxed{4}", r"\boxed 4"]
)
def test_no_complete_box_is_no_answer(text):
    assert boxed(text) is None


@pytest.mark.parametrize("text", [r"\boxedx{4}", r"\mathboxed{4}", r"\boxed[4]", "\\boxed", "\\fbox", "boxed", "{4}"])
def test_what_only_resembles_a_box_is_none(text):
    assert boxed(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{1 and \boxed{2}", "2"),
        (r"\boxed{1 and { \boxed{2}", "2"),
        (r"\boxed{1 and \boxed{2} then \boxed{3}", "3"),
        (r"\boxed{1} so \boxed{2 \boxed{3} \boxed{4", "3"),
    ],
)
def test_an_unclosed_box_is_no_answer_but_hides_no_other(text, answer):
    assert boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{ \fbox{7} }", "7"),
        (r"\boxed{a \fbox{7} b}", r"a \fbox{7} b"),
        (r"\boxed{\boxed{1}} so \boxed{2}", "2"),
        (r"\boxed{0} so \boxed{\boxed{1} \boxed{2}}", r"\boxed{1} \boxed{2}"),
    ],
)
def test_a_box_that_is_all_of_another_is_unwrapped_and_any_other_inner_box_is_part_of_the_outer_one(text, answer):
    assert boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The roots are \boxed{2} and \boxed{3}.", "2, 3"),
        (r"$\boxed{2}$, $\boxed{3}$, or $\boxed{5}$", "2, 3, 5"),
        (r"\[\boxed{2}\quad\text{and}\quad\boxed{3}\]", "2, 3"),
        (r"\boxed{2};\boxed{3}", "2, 3"),
        (r"\boxed{2} \boxed{2}", "2"),
        (r"Scratch: \boxed{9}. Finally \boxed{2} and \boxed{3}", "2, 3"),
        (r"\boxed{2} wait, \boxed{3}", "3"),
        (r"\boxed{2} = \boxed{3}", "3"),
        (r"\boxed{2}" + " " * 100 + r"\boxed{3}", "3"),
    ],
)
def test_boxes_that_only_connectors_part_are_one_list(text, answer):
    assert boxed(text) == answer


def test_every_box_of_a_gold_is_part_of_it():
    assert boxed(r"\boxed{1} papers and then \boxed{2} bins", every=True) == "1, 2"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>\boxed{1}</think> \boxed{2}", "2"),
        (r"<think>\boxed{1}</think> so it is two", None),
        (r"thinking \boxed{1}</think> \boxed{2}", "2"),
        (r"<think>\boxed{1}</think><think>\boxed{2}</think>\boxed{3}", "3"),
        (r"<think>so \boxed{1}", "1"),
    ],
)
def test_what_is_thought_is_no_answer(text, answer):
    assert boxed(text) == find(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The answer is 4.", "4"),
        (r"The answer is $\frac{5}{6}$", r"\frac{5}{6}"),
        ("work\nAnswer: $335$", "335"),
        ("Final Answer: **73**", "73"),
        ("**Answer:** 12 cm", "12 cm"),
        ("She has 3 + 4 = 7.\n#### 42", "42"),
        ("Work 5.\n#### $1,234\n", "$1,234"),
        ("#### 3. The third step\nThe answer is 5.", "5"),
        ("<answer>The answer is 7</answer>", "7"),
        ("The answer is 5 because 2+3=5 and 10-5=5", "5"),
        ("The answer is 5, not 6.", "5"),
        ("Answer: The final answer is $(0, 0)$. I hope it is correct.", "(0, 0)"),
        (r"First \boxed{255}. So there are more. Final Answer: The final answer is $10,455$.", "10,455"),
        (r"The answer is 3. No: \boxed{4}", "4"),
        (r"\boxed{4}, so the answer is four", "4"),
        ("Let me see. <answer>42</answer>", "42"),
        ("<answer>1</answer> or rather <answer>2</answer>", "2"),
        ("the answer is $12$ and $13$", "12, 13"),
        ("The result is $3$", "3"),
        (r"Thus it follows that \[ x = 9 \]", "x = 9"),
        ("Thus there are 12 distinct sequences. I hope so.", "12"),
        ("Adding $d$ we see this. In the end there are 12 ways.", "12"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        ("x = 3", "x = 3"),
        ("Maximum = 2, Minimum = 1, Median: 0", "Maximum = 2, Minimum = 1, Median: 0"),
        (r"7 \text{ goats and } 4 \text{ toys}", r"7 \text{ goats and } 4 \text{ toys}"),
        ("no solution", "no solution"),
        ("<think>the answer is 5</think> The answer is 6.", "6"),
        ("", None),
    ],
)  # fmt: skip
def test_phrases_are_read_where_asked_for(text, answer):
    assert find(text, phrases=True) == answer


def test_without_phrases_only_a_box_is_an_answer():
    assert find("The answer is 4.") is None
    assert find(r"The answer is \boxed{4}.") == "4"


@pytest.mark.parametrize("text", [r"\boxed{}", r"\boxed{ }", "\\boxed{\n\t}", r"\boxed{4} so \boxed{}"])
def test_an_empty_last_box_is_an_empty_answer(text):
    assert boxed(text) == ""


@pytest.mark.parametrize("text", [r"\boxed{ 4 }", r"\boxed {4}", "\\boxed\n  {\n4\n}", "\\boxed\t{4}"])
def test_spaces_around_the_content_and_before_the_brace_are_ignored(text):
    assert boxed(text) == "4"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        pytest.param("\\boxed{" * (MEGABYTE // 7), None, id="boxes_opened"),
        pytest.param("{" * MEGABYTE, None, id="braces_opened"),
        pytest.param("}" * MEGABYTE, None, id="braces_closed"),
        pytest.param("\\" * MEGABYTE, None, id="backslashes"),
        pytest.param("\\boxed" * (MEGABYTE // 6), None, id="boxes_without_brace"),
        pytest.param("\\boxed" + " " * MEGABYTE, None, id="spaces_after_boxed"),
        pytest.param(("\\boxed" + " " * 994) * 1000, None, id="many_spaces_after_many_boxed"),
        pytest.param("\\boxed{4}" + "\\boxed{" * (MEGABYTE // 7), "4", id="answer_then_boxes_opened"),
        pytest.param("{" * MEGABYTE + "\\boxed{4}", "4", id="braces_opened_then_answer"),
        pytest.param("\\boxed{4}" * (MEGABYTE // 9), "4", id="many_answers"),
        pytest.param("\\boxed{" + "1" * MEGABYTE + "}", "1" * MEGABYTE, id="long_answer"),
        pytest.param("\\boxed{" + "{}" * (MEGABYTE // 2) + "}", "{}" * (MEGABYTE // 2), id="many_inner_braces"),
    ],
)
def test_a_megabyte_is_read_whatever_it_holds(text, answer):
    found = boxed(text)
    assert found == answer, None if found is None else found[:80]  # pytest's own difference would never end


@pytest.mark.parametrize(
    "part",
    ["a", "ab ", "1", "1,", "$", "$a", r"\(", r"\[", "<answer>", "<answer>1</answer>", "answer is ", "Final answer: ",
     "#### 1", "\n#### 1 ",
     "answer: ** ", "answer" + " " * 20, r"\text{", ". ", "a=", "</think>", "1" + " " * 999, "\\", "\u4e2d"],
)  # fmt: skip
def test_a_megabyte_of_prose_is_read_in_no_time(part):
    text, start = part * (MEGABYTE // len(part)), time.process_time()
    find(text, phrases=True)
    assert time.process_time() - start < 2.0


def test_deeply_nested_boxes_give_the_innermost():
    assert boxed("\\boxed{" * 50_000 + "4" + "}" * 50_000) == "4"


class Counted(str):
    """A text that counts the characters copied out of it."""

    copied = 0

    def __getitem__(self, where):
        part = super().__getitem__(where)
        self.copied += len(part)
        return part


@pytest.mark.parametrize("nested", [10, 1000])
def test_nested_boxes_are_not_copied_over_and_over(nested):
    text = Counted("\\boxed{" * nested + "4" + "}" * nested)
    assert boxed(text) == "4"
    assert text.copied <= 2 * len(text)


@given(st.text("{}\\ boxed1", max_size=60))
def test_any_text_gives_parts_of_itself_or_nothing(text):
    found = boxed(text)
    assert found is None or all(part in text and part == part.strip() for part in found.split(", "))


@given(st.text("{}\\ boxed1", max_size=40), st.integers())
def test_a_box_at_the_end_wins_over_whatever_stands_before_it(text, value):
    assert boxed(f"{text} so \\boxed{{{value}}}") == str(value)
