"""Quizzes: what a `quiz.toml` must say, what is a right answer, what may be typed, and every quiz of the course."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from onepiece.course import quiz
from onepiece.course.errors import UserError
from onepiece.course.quiz import Choice, Question, find, grade, load, problems, quiz_files
from onepiece.course.text import LANGUAGES, Text
from onepiece.host.quiz.answers import NotAnAnswer, how_to_answer, letter, parse, shuffled
from onepiece.host.quiz.text import prose, wrapped

GOOD = """
[[questions]]
id = "one"
kind = "single"
prompt = { en = "Which?", zh-TW = "哪一個？" }
[[questions.choices]]
text = { en = "this", zh-TW = "這個" }
correct = true
explanation = { en = "It is.", zh-TW = "就是它。" }
[[questions.choices]]
text = { en = "that", zh-TW = "那個" }
explanation = { en = "It is not.", zh-TW = "不是它。" }

[[questions]]
id = "several"
kind = "multiple"
prompt = { en = "Which ones?", zh-TW = "哪幾個？" }
[[questions.choices]]
text = { en = "two", zh-TW = "二" }
correct = true
explanation = { en = "Even.", zh-TW = "偶數。" }
[[questions.choices]]
text = { en = "three", zh-TW = "三" }
correct = false
explanation = { en = "Odd.", zh-TW = "奇數。" }
[[questions.choices]]
text = { en = "four", zh-TW = "四" }
correct = true
explanation = { en = "Even too.", zh-TW = "也是偶數。" }

[[questions]]
id = "how-much"
kind = "numeric"
prompt = { en = "How much?", zh-TW = "多少？" }
answer = 4.0
tolerance = 0.01
unit = "GB"
explanation = { en = "Two times two.", zh-TW = "二乘二。" }

[[questions]]
id = "in-order"
kind = "order"
prompt = { en = "In which order?", zh-TW = "順序是？" }
[[questions.choices]]
text = { en = "first", zh-TW = "第一" }
explanation = { en = "It begins.", zh-TW = "由它開始。" }
[[questions.choices]]
text = { en = "second", zh-TW = "第二" }
explanation = { en = "It follows.", zh-TW = "接著是它。" }
[[questions.choices]]
text = { en = "third", zh-TW = "第三" }
explanation = { en = "It ends.", zh-TW = "最後是它。" }
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_quiz(content: str) -> Path:
        path = tmp_path / "lab-9.1-toy" / "quiz.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    return write_quiz


def text(words: str) -> Text:
    return Text(words, words)


def question(kind: str, count: int = 4, right: tuple[int, ...] = (1,)) -> Question:
    choices = tuple(Choice(text(str(index)), text("why"), correct=kind != "order" and index in right) for index in range(count))
    return Question("q", kind, text("?"), choices)


def number(answer: float, tolerance: float = 0.01, unit: str = "") -> Question:
    return Question("q", "numeric", text("?"), answer=answer, tolerance=tolerance, unit=text(unit), explanation=text("why"))


# --- the file -----------------------------------------------------------------------------------------------


def test_a_quiz_is_read_with_its_answers(write) -> None:  # type: ignore[no-untyped-def]
    made = load(write(GOOD))
    assert made.id == "lab-9.1-toy"
    assert [found.id for found in made.questions] == ["one", "several", "how-much", "in-order"]
    assert [found.right for found in made.questions] == [{0}, {0, 2}, 4.0, (0, 1, 2)]
    assert made.questions[1].choices[2].explanation == Text("Even too.", "也是偶數。")
    assert made.questions[2].unit == Text("GB", "GB")
    assert made.question("several") is made.questions[1]
    assert made.question("gone") is None


def test_a_quiz_of_a_chapter_has_the_chapters_number(tmp_path: Path) -> None:
    path = tmp_path / "1.3-optimisation-and-alignment" / "quiz.toml"
    path.parent.mkdir()
    path.write_text(GOOD, encoding="utf-8")
    assert load(path).id == "1.3"


def without(pattern: str) -> str:
    changed = re.sub(pattern, "", GOOD, count=1)
    assert changed != GOOD
    return changed


def instead(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


BROKEN = {
    "no explanation of a choice": (without(r'explanation = \{ en = "It is not.*\n'), "question one, choice 2", "key explanation: found missing"),
    "no explanation in Chinese": (instead(', zh-TW = "不是它。"', ""), "question one, choice 2", "key explanation.zh-TW: found missing"),
    "an empty explanation": (instead('"It is not."', '" "'), "question one, choice 2", "key explanation.en: found ' '"),
    "no explanation of a number": (without(r'explanation = \{ en = "Two times.*\n'), "question how-much", "key explanation: found missing"),
    "no explanation in an order": (without(r'explanation = \{ en = "It ends.*\n'), "question in-order, choice 3", "key explanation: found missing"),
    "no prompt": (without(r"prompt = .*\n"), "question one", "key prompt: found missing"),
    "a prompt in one language": (instead(', zh-TW = "哪一個？"', ""), "question one", "key prompt.zh-TW: found missing"),
    "a prompt that is a string": (instead('{ en = "Which?", zh-TW = "哪一個？" }', '"Which?"'), "question one", "key prompt: found 'Which?'"),
    "an unknown language": (instead('zh-TW = "這個"', 'zh-CN = "这个"'), "question one, choice 1", "key text.zh-TW: found missing"),
    "no id": (without(r'id = "one"\n'), "question 1", "key id: found missing"),
    "an id with spaces": (instead('"one"', '"number one"'), "question 1", "allowed: lower-case words with dashes"),
    "an id twice": (instead('"several"', '"one"'), "question one", "used twice"),
    "an unknown kind": (instead('"single"', '"guess"'), "question one", "single | multiple | numeric | order"),
    "nothing right": (without(r"correct = true\n"), "question one", "0 choices are correct"),
    "correct that is a word": (instead("correct = true", 'correct = "yes"'), "question one, choice 1", "true or false"),
    "correct in an order": (instead('{ en = "first", zh-TW = "第一" }', '{ en = "first", zh-TW = "第一" }\ncorrect = true'), "question in-order, choice 1", "key correct: found an unknown key"),
    "a misspelt key": (instead("tolerance", "tolerence"), "question how-much", "key tolerance: found missing"),
    "a key too many": (instead('unit = "GB"', 'unit = "GB"\nhint = "no"'), "question how-much", "key hint: found an unknown key"),
    "an answer that is text": (instead("answer = 4.0", 'answer = "four"'), "question how-much", "allowed: a number"),
    "an answer that is no number": (instead("answer = 4.0", "answer = nan"), "question how-much", "allowed: a number"),
    "a negative tolerance": (instead("0.01", "-0.01"), "question how-much", "a number >= 0"),
    "the same choice twice": (instead('{ en = "three", zh-TW = "三" }', '{ en = "two", zh-TW = "三" }'), "question several", "read the same in en"),
    "no TOML": ("[[questions", "", "not TOML"),
    "no questions": ("questions = []", "", "[[questions]] tables"),
    "an empty file": ("", "", "an empty file"),
    "an unknown table": (GOOD + "[[question]]\n", "", "key question: found an unknown key (did you mean questions?)"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "where", "what"), BROKEN.values(), ids=BROKEN)
def test_a_mistake_is_named_with_file_question_and_what_is_missing(write, content: str, where: str, what: str) -> None:  # type: ignore[no-untyped-def]
    path = write(content)
    with pytest.raises(UserError) as caught:
        load(path)
    said = str(caught.value.cause)
    assert caught.value.code == "bad-quiz"
    assert re.search(re.escape(f"lab-9.1-toy/quiz.toml{', ' * bool(where)}{where}") + r"(, key [\w.-]+)?: ", said)
    assert what in said


def test_a_single_question_with_two_right_choices_is_refused(write) -> None:  # type: ignore[no-untyped-def]
    path = write(instead('text = { en = "that", zh-TW = "那個" }', 'text = { en = "that", zh-TW = "那個" }\ncorrect = true'))
    with pytest.raises(UserError, match="2 choices are correct"):
        load(path)


@pytest.mark.parametrize("count", [1, quiz.MAX_CHOICES + 1])
def test_a_question_has_two_to_eight_choices(write, count: int) -> None:  # type: ignore[no-untyped-def]
    choice = '[[questions.choices]]\ntext = {{ en = "{0}", zh-TW = "{0}" }}\ncorrect = {1}\nexplanation = {{ en = "x", zh-TW = "x" }}\n'
    head = '[[questions]]\nid = "q"\nkind = "single"\nprompt = { en = "?", zh-TW = "？" }\n'
    with pytest.raises(UserError, match="allowed: 2 to 8"):
        load(write(head + "".join(choice.format(index, str(index == 0).lower()) for index in range(count))))


def test_every_question_with_a_mistake_is_named_at_once(write) -> None:  # type: ignore[no-untyped-def]
    path = write(GOOD.replace('explanation = { en = "It is not.", zh-TW = "不是它。" }', "").replace("tolerance = 0.01\n", ""))
    assert [str(found.cause).split(", ")[1].split(":")[0] for found in problems(path)] == ["question one", "question how-much"]


def test_a_quiz_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    for name in ("docs/1.3-optimisation", "docs/notes", "labs/lab-1.5-flashattention", "labs/lab-1.1.1-lora", "labs/lab-1.1-peft"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "quiz.toml").touch()
    files = quiz_files(tmp_path / "labs", tmp_path / "docs")
    assert list(files) == ["lab-1.1-peft", "lab-1.1.1-lora", "1.3", "lab-1.5-flashattention"]
    assert find("lab-1.5", files) == files["lab-1.5-flashattention"]
    assert find("lab-1.1", files) == files["lab-1.1-peft"]
    assert find("1.3", files).parent.name == "1.3-optimisation"
    with pytest.raises(UserError, match=r"no quiz named lab-1\.6-flash.*Did you mean: nox -s quiz -- lab-1\.5-flashattention"):
        find("lab-1.6-flash", files)


# --- grading ------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 4), min_size=1), st.sets(st.integers(0, 4), min_size=1))
def test_several_choices_are_right_only_all_together(right: set[int], chosen: set[int]) -> None:
    assert grade(question("multiple", 5, tuple(right)), frozenset(chosen)) is (right == chosen)


@given(st.permutations(range(4)))
def test_an_order_is_right_only_as_a_whole(order: list[int]) -> None:
    assert grade(question("order"), tuple(order)) is (order == [0, 1, 2, 3])


@given(st.floats(1e-6, 1e15), st.floats(1e-4, 0.5), st.floats(0.0, 2.0), st.sampled_from([-1, 1]), st.sampled_from([-1, 1]))
def test_a_number_is_right_within_its_relative_tolerance(answer: float, tolerance: float, share: float, side: int, sign: int) -> None:
    said = sign * answer * (1 + side * share * tolerance)
    if share <= 0.999:
        assert grade(number(sign * answer, tolerance), said)
    elif share >= 1.001:
        assert not grade(number(sign * answer, tolerance), said)


@pytest.mark.parametrize("said", [4.04, 3.96, 4, 4.0])
def test_the_edge_of_the_tolerance_is_within_it(said: float) -> None:
    assert grade(number(4.0, 0.01), said)


def test_without_tolerance_and_around_zero_only_the_number_itself_is_right() -> None:
    assert grade(number(3, 0.0), 3.0)
    assert not grade(number(3, 0.0), 3.0001)
    assert grade(number(0, 0.5), 0.0)
    assert not grade(number(0, 0.5), 1e-9)
    assert not grade(number(4), float("nan"))
    assert not grade(number(4), float("inf"))


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (question("single"), 1.0),
        (question("single"), (1,)),
        (question("order"), frozenset({1})),
        (number(4), frozenset({4})),
        (number(4), True),
    ],
)
def test_an_answer_of_another_kind_is_a_mistake_of_the_caller(asked: Question, answer: object) -> None:
    with pytest.raises(TypeError):
        grade(asked, answer)  # type: ignore[arg-type]


# --- what is typed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "typed", "answer"),
    [
        ("single", "b", {1}),
        ("single", " B ", {1}),
        ("single", "ｂ", {1}),
        ("multiple", "ac", {0, 2}),
        ("multiple", "c a", {0, 2}),
        ("multiple", "A, C", {0, 2}),
        ("multiple", "ａ、ｃ", {0, 2}),
        ("order", "b a c d", (1, 0, 2, 3)),
        ("order", "bacd", (1, 0, 2, 3)),
        ("order", "B > A > C > D", (1, 0, 2, 3)),
        ("order", "b，a，c，d", (1, 0, 2, 3)),
    ],
)
def test_letters_may_be_typed_in_any_common_way(kind: str, typed: str, answer: object) -> None:
    assert parse(question(kind), typed, range(4)) == answer


def test_letters_mean_what_is_shown() -> None:
    assert parse(question("single"), "a", (2, 0, 1, 3)) == {2}
    assert parse(question("order"), "b c a d", (2, 0, 1, 3)) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("typed", "unit", "answer"),
    [
        ("4.0", "", 4.0),
        ("4", "GB", 4.0),
        ("4.0 GB", "GB", 4.0),
        ("4.0gb", "GB", 4.0),
        ("４．０", "", 4.0),
        ("1,048,576", "", 1048576.0),
        ("1 048 576", "", 1048576.0),
        ("1_000", "", 1000.0),
        ("1e-5", "", 1e-5),
        ("1E6", "", 1e6),
        (".5", "", 0.5),
        ("5.", "", 5.0),
        ("-3", "", -3.0),
        ("1/4", "", 0.25),
        ("50 %", "%", 50.0),
        ("50％", "%", 50.0),
        ("12 個位元組", "個位元組", 12.0),
    ],
)
def test_numbers_may_be_typed_in_any_common_way(typed: str, unit: str, answer: float) -> None:
    assert parse(number(1, unit=unit), typed, ()) == answer


@pytest.mark.parametrize(
    ("asked", "typed"),
    [
        (question("single"), ""),
        (question("single"), "e"),
        (question("single"), "ab"),
        (question("single"), "4"),
        (question("multiple"), "aab"),
        (question("order"), "ab"),
        (question("order"), "abcc"),
        (number(4), "four"),
        (number(4), "4,5"),
        (number(4), "1,00,000"),
        (number(4), "nan"),
        (number(4), "inf"),
        (number(4), "1e999"),
        (number(4), "1/0"),
        (number(4), "4 MB"),
        (number(4), "--4"),
        (number(4), ""),
    ],
)
def test_what_is_no_answer_is_asked_for_again_with_what_would_be_one(asked: Question, typed: str) -> None:
    with pytest.raises(NotAnAnswer) as caught:
        parse(asked, typed, range(len(asked.choices)))
    assert caught.value.says.en != caught.value.says.zh_tw


@given(st.text(max_size=30), st.sampled_from([question("single"), question("multiple"), question("order"), number(4, unit="GB")]))
def test_nothing_that_is_typed_breaks_it(typed: str, asked: Question) -> None:
    try:
        answer = parse(asked, typed, range(len(asked.choices)))
    except NotAnAnswer:
        return
    assert grade(asked, answer) in (True, False)


@given(st.integers(2, 8), st.integers(0, 10**6), st.sampled_from(["single", "multiple", "order"]))
def test_choices_are_shuffled_in_one_way_for_each_seed(count: int, seed: int, kind: str) -> None:
    asked = question(kind, count)
    shown = shuffled(asked, "lab-9.1-toy", seed)
    assert sorted(shown) == list(range(count))
    assert shuffled(asked, "lab-9.1-toy", seed) == shown
    if kind == "order":
        assert shown != asked.right, "the solution is not given away"


def test_attempts_and_questions_differ_in_their_order() -> None:
    assert len({shuffled(question("single", 6), "lab-9.1-toy", seed) for seed in range(20)}) > 10
    assert shuffled(question("single", 6), "lab-9.1-toy", 1) == (4, 0, 3, 1, 2, 5), "the same on every machine and Python"


# --- every quiz of the course -------------------------------------------------------------------------------

QUIZZES = quiz_files()


@pytest.mark.parametrize("path", QUIZZES.values(), ids=QUIZZES)
class TestEveryQuiz:
    """Its format, its answer key, both of its languages."""

    def test_nothing_is_wrong_with_it(self, path: Path) -> None:
        assert [str(found.cause) for found in problems(path)] == []

    def test_its_right_answers_are_right_and_all_others_wrong(self, path: Path) -> None:
        for asked in load(path).questions:
            assert grade(asked, asked.right), asked.id
            for answer in wrong_answers(asked):
                assert not grade(asked, answer), f"{asked.id}: {answer}"

    def test_its_right_answers_can_be_typed(self, path: Path) -> None:
        made = load(path)
        for asked, seed in itertools.product(made.questions, range(3)):
            shown = shuffled(asked, made.id, seed)
            for language in LANGUAGES:
                assert grade(asked, parse(asked, typed_answer(asked, shown, language), shown)), asked.id

    def test_it_is_written_in_both_languages(self, path: Path) -> None:
        chinese = re.compile(r"[\u4e00-\u9fff]")
        for asked in load(path).questions:
            explanations = [asked.explanation] if asked.explanation else [choice.explanation for choice in asked.choices]
            for both in [asked.prompt, *explanations]:
                assert chinese.search(both.zh_tw), f"{asked.id}: {both.zh_tw!r} is not Chinese"
                assert not chinese.search(both.en), f"{asked.id}: {both.en!r} is not English"

    def test_no_choice_speaks_of_the_place_of_another_for_they_are_shuffled(self, path: Path) -> None:
        for asked in load(path).questions:
            for choice in asked.choices:
                for both in (choice.text, choice.explanation):
                    assert not re.search(r"(of|the) (the )?above\b|\b(choice|answer|option) [a-h1-8]\b", both.en, re.IGNORECASE), asked.id
                    assert not re.search(r"以上(皆|都|選項)|選項 ?[A-Ha-h1-8]", both.zh_tw), asked.id

    def test_no_explanation_is_just_a_verdict(self, path: Path) -> None:
        for asked in load(path).questions:
            for choice in asked.choices:
                assert len(choice.explanation.en.split()) >= 4, f"{asked.id}: {choice.explanation.en!r}"


def wrong_answers(asked: Question) -> list[object]:
    if asked.answer is not None:
        off = max(2 * asked.tolerance * abs(asked.answer), 1e-6)
        return [asked.answer + off, asked.answer - off]
    everything = range(len(asked.choices))
    if asked.kind == "order":
        return list(itertools.islice(itertools.permutations(everything), 1, 200))
    if asked.kind == "single":
        return [frozenset({index}) for index in everything if not asked.choices[index].correct]
    subsets = (frozenset(some) for size in everything for some in itertools.combinations(everything, size + 1))
    return [some for some in subsets if some != asked.right]


def typed_answer(asked: Question, shown: tuple[int, ...], language: str) -> str:
    if asked.answer is not None:
        return f"{asked.answer!r} {asked.unit[language]}"
    right = asked.right if asked.kind == "order" else [index for index in shown if index in asked.right]  # type: ignore[operator]
    return " ".join(letter(shown.index(index)) for index in right)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("plain [bold] \\", "plain [bold] \\"),
        ("a `2**20` and a `3**4`", "a 2**20 and a 3**4"),
        ("**not** `this`", "not this"),
        ("a ` alone, 2 * 3 ** 4", "a ` alone, 2 * 3 ** 4"),
        ("`\\`, `[/]`", "\\, [/]"),
    ],
)
def test_marks_of_a_text_are_shown_as_style_and_everything_else_as_it_is(written: str, shown: str) -> None:
    assert prose(text(written)).plain == shown


@given(st.text(max_size=40))
def test_no_text_of_a_quiz_breaks_the_terminal(written: str) -> None:
    assert set(prose(text(written)).plain) <= set(written)


MIXED = st.text(st.sampled_from("中文，。（）「」a b1 -"), max_size=80)


@given(MIXED, st.integers(8, 30))
@example("1「（（1。", 8)
def test_lines_are_as_wide_as_the_terminal_and_lose_nothing(written: str, width: int) -> None:
    lines = wrapped(prose(text(written)), width).plain.split("\n")
    assert all(cell_len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == written.replace(" ", "")


def test_chinese_breaks_where_chinese_may() -> None:
    written = "舊的分數已經丟掉了，也不需要（真的）：一個 softmax 係數"
    assert wrapped(prose(text(written)), 20).plain.split("\n") == ["舊的分數已經丟掉了，", "也不需要（真的）：一", "個 softmax 係數"]
    assert wrapped(prose(text(written)), 18).plain.split("\n")[0] == "舊的分數已經丟掉", "no line begins with a comma"
    assert wrapped(prose(text("Words break at spaces only.")), 12).plain.split("\n") == ["Words break", "at spaces", "only."]


def test_how_to_answer_is_said_in_both_languages() -> None:
    for asked in (question("single"), question("multiple"), question("order"), question("order", 2), number(1), number(1, unit="GB")):
        said = how_to_answer(asked)
        assert said.en and said.zh_tw and said.en != said.zh_tw
