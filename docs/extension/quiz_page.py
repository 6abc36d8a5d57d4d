"""Quizzes as HTML: readable without scripts (answers folded), answered on the page by `quiz.js`."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from onepiece.course import quiz
from onepiece.course.errors import UserError
from onepiece.course.quiz import Question
from onepiece.course.text import Text

from . import course, mathml
from .numbers import readable

_logger = logging.getLogger(__name__)

WORDS = {
    "single": Text("Choose one.", "單選題。"),
    "multiple": Text("Choose all that are right.", "複選題，請選出所有正確的選項。"),
    "order": Text("Put these in order.", "請排出正確的順序。"),
    "numeric": Text("A number.", "請填一個數字。"),
    "answer": Text("Answer and explanations", "答案與說明"),
    "within": Text("within {percent:g}%", "誤差 {percent:g}% 以內"),
    "right": Text("Right.", "答對了。"),
    "wrong": Text("Not yet. Read the explanations, then try again.", "還不對。看看說明，再試一次。"),
    "nothing": Text("Answer first.", "請先作答。"),
    "check": Text("Check", "檢查答案"),
    "up": Text("move up", "往上移"),
    "down": Text("move down", "往下移"),
    "score": Text("{right} of {all} right", "答對 {right} 題，共 {all} 題"),
    "terminal": Text("The same questions in a terminal:", "在終端機作答同一份題目："),
}


def render(path: Path, language: str) -> str:
    """The whole quiz of a file.

    Raises:
        UserError: "bad-quiz".
    """
    found = quiz.load(path)
    questions = "".join(_question(question, number, language) for number, question in enumerate(found.questions, start=1))
    said = {key: WORDS[key][language] for key in ("right", "wrong", "nothing", "check", "up", "down", "score")}
    attributes = " ".join(f'data-{key}="{html.escape(text)}"' for key, text in said.items())
    return f'<section class="quiz" {attributes}>{questions}<p class="quiz-score" role="status"></p></section>'


def _question(question: Question, number: int, language: str) -> str:
    body = _number_field(question, language) if question.kind == "numeric" else _choices(question, language)
    how = WORDS[question.kind][language]
    return (
        f'<form class="quiz-question" data-kind="{question.kind}" id="quiz-{question.id}"><fieldset>'
        f'<legend><span class="quiz-number">{number}.</span> {inline(question.prompt[language])} '
        f'<span class="quiz-how">{how}</span></legend>'
        f"{body}{_answer(question, language)}</fieldset></form>"
    )


def _choices(question: Question, language: str) -> str:
    kind = {"single": "radio", "multiple": "checkbox"}.get(question.kind)
    places = range(len(question.choices))
    items = []
    for place in places if kind else _shuffled(len(question.choices)):
        text = inline(question.choices[place].text[language])
        if kind:
            text = f'<label><input type="{kind}" name="{question.id}" value="{place}"> <span>{text}</span></label>'
        else:
            text = f'<span class="quiz-item">{text}</span>'
        items.append(f'<li data-choice="{place}">{text}</li>')
    return f'<ul class="quiz-choices">{"".join(items)}</ul>'


def _shuffled(count: int) -> list[int]:
    """Every second one first, then the others, backwards: never in order, the same in every build."""
    return [*range(1, count, 2), *range(0, count, 2)][::-1] if count > 2 else [1, 0]


def _number_field(question: Question, language: str) -> str:
    unit = html.escape(question.unit[language])
    within = WORDS["within"].format(percent=100 * question.tolerance)[language] if question.tolerance else ""
    return (
        f'<p class="quiz-number-field"><input type="text" inputmode="decimal" name="{question.id}" autocomplete="off" '
        f'aria-label="{html.escape(WORDS["numeric"][language])}"> {unit} <span class="quiz-how">{within}</span></p>'
    )


def _answer(question: Question, language: str) -> str:
    if question.kind == "numeric":
        assert question.answer is not None and question.explanation is not None
        answer = f"<strong>{readable(question.answer, language)}</strong> {html.escape(question.unit[language])}"
        inside = (
            f'<p data-answer="{question.answer!r}" data-tolerance="{question.tolerance!r}">{answer}</p>'
            f"<p>{inline(question.explanation[language])}</p>"
        )
    else:
        items = []
        for place, choice in enumerate(question.choices):
            mark = "" if question.kind == "order" else "✓ " if choice.correct else "✗ "
            right = ' data-right="true"' if choice.correct else ""
            text, why = inline(choice.text[language]), inline(choice.explanation[language])
            items.append(f'<li data-choice="{place}"{right}>{mark}{text}<br><span class="quiz-why">{why}</span></li>')
        tag = "ol" if question.kind == "order" else "ul"
        inside = f"<{tag}>{''.join(items)}</{tag}>"
    return f'<details class="quiz-answer"><summary>{WORDS["answer"][language]}</summary>{inside}</details>'


def _math(tex: str, options: dict[str, Any]) -> str:
    try:
        return mathml.convert(tex, block=bool(options.get("display_mode")))
    except MathError as error:
        _logger.warning("a formula of a quiz that cannot be shown: %s in %s", str(error).splitlines()[0], tex)
        return html.escape(tex)


_markdown = MarkdownIt("commonmark", {"html": False}).use(dollarmath_plugin, renderer=_math, double_inline=True)


def inline(text: str) -> str:
    """Markdown of one paragraph, with formulas, as HTML."""
    return str(_markdown.renderInline(" ".join(text.split())))


class QuizDirective(SphinxDirective):
    """`{quiz} lab-1.5-flashattention` or `{quiz} 1.3`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        language = course.language()
        try:
            path = quiz.find(self.arguments[0], quiz.quiz_files())
            self.env.note_dependency(path)
            markup = render(path, language)
        except UserError as error:
            _logger.warning("quiz: %s", error.cause.en, location=self.get_location())
            return []
        self.env.metadata[self.env.docname]["quiz"] = "yes"
        how = nodes.paragraph("", WORDS["terminal"][language] + " ")
        how += nodes.literal("", f"nox -s quiz -- {self.arguments[0]}")
        return [nodes.raw("", markup, format="html"), how]


def setup(app: Sphinx) -> None:
    app.add_directive("quiz", QuizDirective)
