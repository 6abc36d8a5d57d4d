"""Notebooks and modules from one source: the convention, both languages, the reference and the starter."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
import toy_course
from hypothesis import assume, example, given
from hypothesis import strategies as st
from toy_course import LAB

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.text import LANGUAGES
from onepiece.host.road import sources
from onepiece.host.road.shared_modules import of_lab, sources_hash
from onepiece.host.road.workspace import make_workspace


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab-9.1-toy")


Generate = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def generate(directory: Path) -> Generate:
    """Cells of the notebook that a source gives in one language, after the notebook format's own check."""

    def cells(source: str, language: str = "en") -> list[dict[str, Any]]:
        path = directory / "01-tried.py"
        path.write_text(source, encoding="utf-8", newline="\n")
        notebook = nbformat.reads(sources.notebook_json(path, language), as_version=4)
        nbformat.validate(notebook)
        return list(notebook.cells)

    return cells


KEEP = "  # replace this line; keep what follows it"

def refusal(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(UserError) as refused:
        function(*arguments)
    assert refused.value.code == "bad-source"
    return refused.value.cause.en


# --- the convention ---------------------------------------------------------------------------------

TWINS = '# %% [markdown] lang="en"\n# Hello\n\n# %% [markdown] lang="zh-TW"\n# 你好\n'

# name -> (source, line, what it says)
BROKEN: dict[str, tuple[str, int, str]] = {
    "nothing": ("", 1, "no cells"),
    "text before the first cell": ('"""A module."""\n\n# %%\n', 1, "text before the first cell"),
    "another cell type": ("# %%\n\n# %% [raw]\n# x\n", 3, "unknown cell type [raw]"),
    "a title": ("# %% A title\n", 1, "a cell key is written"),
    "a cell magic": ("# %%\n# %%time\n", 2, "a cell header that cannot be read"),
    "an unknown key": ('# %%\nx = 1\n# %% slide="yes"\n', 3, "unknown cell key slide; allowed: lang, tags"),
    "an unquoted value": ("# %% [markdown] lang=en\n# x\n", 1, "lang=en"),
    "tags that are no list": ('# %% tags="a"\n', 1, "tags is a list of strings"),
    "tags that are no strings": ("# %% tags=[1]\n", 1, "tags is a list of strings"),
    "tags that cannot be read": ("# %% tags=[a]\n", 1, "not a quoted value"),
    "an unknown language": ('# %% [markdown] lang="zh"\n# x\n', 1, "allowed: en | zh-TW"),
    "code in one language": ('# %% lang="en"\nx = 1\n', 1, "on markdown cells only"),
    "prose that is no comment": ("# %% [markdown]\n# x\ny = 1\n", 3, "not a comment"),
    "English at the end without its twin": (f'{TWINS}\n# %% [markdown] lang="en"\n# x\n', 7, 'no lang="zh-TW" twin'),
    "English without its twin": ('# %% [markdown] lang="en"\n# x\n\n# %%\ny = 1\n', 4, 'no lang="zh-TW" twin directly after it'),
    "English twice": ('# %% [markdown] lang="en"\n# x\n# %% [markdown] lang="en"\n# y\n', 3, 'no lang="zh-TW" twin directly after it'),
    "Chinese without its twin": (f'{TWINS}\n# %%\n# %% [markdown] lang="zh-TW"\n# 再見\n', 8, 'without its lang="en" twin'),
    "Chinese first": ('# %% [markdown] lang="zh-TW"\n# 你好\n# %% [markdown] lang="en"\n# Hello\n', 1, 'without its lang="en" twin'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_convention_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    source, line, says = BROKEN[name]
    path = tmp_path / "01-broken.py"
    path.write_text(source, encoding="utf-8")
    for read in (sources.read_cells, lambda path: sources.notebook_json(path, "en")):
        said = refusal(read, path)
        assert said.startswith(f"{tmp_path.name}/01-broken.py:{line}: ")
        assert says in said


def test_a_source_that_is_not_utf8_or_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "01-broken.py"
    assert "01-broken.py:1: unreadable" in refusal(sources.read_cells, path)
    path.write_bytes("# %% [markdown]\n# 你好\n".encode("big5"))
    assert "01-broken.py:1: unreadable" in refusal(sources.read_cells, path)


def test_tags_travel_and_languages_do_not(generate: Generate) -> None:
    cells = generate(TWINS + '\n# %% tags=["hide-input", "slow"]\nx = 1\n\n# %%\ny = 2\n')
    assert [cell.cell_type for cell in cells] == ["markdown", "code", "code"]
    assert cells[0].metadata == {}
    assert cells[1].metadata == {"tags": ["hide-input", "slow"]}
    assert cells[2].metadata == {}


def test_a_reader_gets_the_cells_of_one_language_and_those_of_both(generate: Generate) -> None:
    source = TWINS + "\n# %% [markdown]\n# $$1 + 1 = 2$$\n\n# %%\nx = 1\n"
    assert [cell.source for cell in generate(source, "en")] == ["Hello", "$$1 + 1 = 2$$", "x = 1"]
    assert [cell.source for cell in generate(source, "zh-TW")] == ["你好", "$$1 + 1 = 2$$", "x = 1"]


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("# copy the weights\nx = 1", id="a comment that begins like a shell command"),
        pytest.param("# ls, cat and cd are commands too\nx = 1", id="another one"),
        pytest.param("# %time is money\nx = 1", id="a comment that begins like a magic"),
        pytest.param("# !important\nx = 1", id="a comment that begins like a shell escape"),
        pytest.param("# ?\nx = 1", id="a question"),
        pytest.param("if True:\n    # copy\n    x = 1", id="an indented comment"),
        pytest.param("x = '''\n\n# a\n'''", id="a string of several lines"),
        pytest.param("def f() -> None:\n    pass\n\n\nf()", id="blank lines inside"),
        pytest.param("# only a comment", id="only a comment"),
    ],
)
def test_code_reaches_the_learner_as_it_is_written(generate: Generate, code: str) -> None:
    (cell,) = generate(f"# %%\n{code}\n")
    assert cell.source == code


@pytest.mark.parametrize("odd", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize("source", ["# %% [markdown]\n# one{}# %%\n# two\n", "# %%\nx = 'one{}two'\n"])
def test_an_odd_line_separator_stays_inside_its_line_or_is_refused(generate: Generate, source: str, odd: str) -> None:
    written = source.format(odd)
    try:
        cells = generate(written)
    except UserError as error:
        assert error.code == "bad-source"
        return
    assert len(cells) == 1
    assert odd in cells[0].source


# --- generation -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> catalog.Lab:
    root = tmp_path_factory.mktemp("course")
    toy_course.write_lab(root)
    return catalog.load(root / "labs").lab(LAB)


@pytest.mark.parametrize("language", LANGUAGES)
def test_generation_is_byte_equal_also_in_another_process(toy: catalog.Lab, tmp_path: Path, language: str) -> None:
    once, again = tmp_path / "once", tmp_path / "again"
    sources.write_notebooks(toy, once, language)
    program = (
        "import sys; from pathlib import Path; from onepiece.course import catalog; from onepiece.host.road import sources; "
        "labs, out, language = sys.argv[1:]; "
        f"sources.write_notebooks(catalog.load(Path(labs)).lab({LAB!r}), Path(out), language)"
    )
    environ = os.environ | {"PYTHONPATH": str(toy_course.ROOT / "shared"), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program, str(toy.directory.parent), str(again), language], env=environ, check=True)
    for name in toy.notebooks:
        assert (once / f"{name}.ipynb").read_bytes() == (again / f"{name}.ipynb").read_bytes()
        assert b"\r" not in (once / f"{name}.ipynb").read_bytes()


def test_only_the_notebooks_that_are_wanted_are_written(toy: catalog.Lab, tmp_path: Path) -> None:
    sources.write_notebooks(toy, tmp_path, "en", ["02-use"])
    assert [path.name for path in tmp_path.iterdir()] == ["02-use.ipynb"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_generated_notebook_has_no_outputs_and_no_trace_of_its_source_format(toy: catalog.Lab, language: str) -> None:
    text = sources.notebook_json(toy.directory / "01-count.py", language)
    assert "jupytext" not in text
    assert "lang" not in {key for cell in json.loads(text)["cells"] for key in cell["metadata"]}
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")


def test_cell_ids_are_unique_and_a_change_leaves_the_ids_of_other_cells_alone(generate: Generate) -> None:
    same = "# %%\nx = 1\n\n" * 3
    before = [cell.id for cell in generate(same)]
    after = [cell.id for cell in generate(same + "# %%\ny = 2\n")]
    assert len(set(before)) == 3
    assert after[:3] == before


def test_jupytext_reads_the_same_cells(toy: catalog.Lab) -> None:
    for name in toy.notebooks:
        path = toy.directory / f"{name}.py"
        theirs = jupytext.read(path, fmt="py:percent").cells
        for language in LANGUAGES:
            wanted = [cell for cell in theirs if cell.metadata.get("lang", language) == language]
            ours = nbformat.reads(sources.notebook_json(path, language), as_version=4).cells
            assert [(cell.cell_type, cell.source) for cell in ours] == [(cell.cell_type, cell.source) for cell in wanted]


# --- any cells at all -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """One cell as an author means it: its text by language."""

    kind: str
    text: dict[str, str]
    tags: tuple[str, ...] = ()

    def source(self) -> str:
        tags = f" tags={json.dumps(list(self.tags))}" if self.tags else ""
        if self.kind == "code":
            return f"# %%{tags}\n{self.text['en']}\n\n"
        if len(set(self.text.values())) == 1:
            return f"# %% [markdown]{tags}\n{comment(self.text['en'])}\n\n"
        return "".join(f'# %% [markdown] lang="{language}"{tags}\n{comment(self.text[language])}\n\n' for language in LANGUAGES)


def comment(text: str) -> str:
    return "\n".join(f"# {line}" if line else "#" for line in text.split("\n"))


LINES = st.one_of(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=30),
    st.sampled_from(
        [
            "# Title",
            "",
            "#",
            "##",
            "```python",
            "```",
            "| a | b |",
            "    four",
            "\\# no title",
            '"""',
            "'''",
            "$x$",
            "---",
            "+",
            "%",
            "!",
            "a %%",
            " %%",
            "    # %%",
            "- item",
            "<!-- #region -->",
            "# -",
            "# +",
            "trailing  ",
            "x = 1",
            "def f():",
            "    # copy",
            "# cat",
            "?",
            "# !ls",
            "\\",
        ]
    ),
)
# A line that starts a cell starts a cell, whatever its author meant.
TEXTS = (
    st.lists(LINES, min_size=1, max_size=5)
    .map(lambda lines: "\n".join(lines).strip("\n "))
    .filter(lambda text: not re.search(r"^(# ?)?%%", text, re.MULTILINE))
)
TAGS = st.lists(st.text("abcdefg-", min_size=1, max_size=5), max_size=2, unique=True).map(tuple)
CELLS = st.lists(
    st.one_of(
        st.builds(lambda text, tags: Written("code", dict.fromkeys(LANGUAGES, text), tags), TEXTS, TAGS),
        st.builds(lambda en, zh, tags: Written("markdown", {"en": en, "zh-TW": zh}, tags), TEXTS, TEXTS, TAGS),
        st.builds(lambda text: Written("markdown", dict.fromkeys(LANGUAGES, text)), TEXTS),
    ),
    min_size=1,
    max_size=6,
)
# What may be refused although an author could mean it: a line that looks like the start of a cell, and a quote or a fence
# that never ends. Everything else must come out as it went in.
ODD = re.compile(r"%%|'''|\"\"\"|```")


@given(CELLS)
@example([Written("code", dict.fromkeys(LANGUAGES, "# copy the weights"))])
def test_any_cells_come_out_as_they_went_in(directory: Path, cells: list[Written]) -> None:
    path = directory / "01-any.py"
    path.write_text("".join(cell.source() for cell in cells), encoding="utf-8", newline="\n")
    for language in LANGUAGES:
        try:
            generated = nbformat.reads(sources.notebook_json(path, language), as_version=4)
        except UserError as error:
            assert error.code == "bad-source"
            assert any(ODD.search(text) for cell in cells for text in cell.text.values()), error
            return
        nbformat.validate(generated)
        assert [(cell.cell_type, cell.source, tuple(cell.metadata.get("tags", ()))) for cell in generated.cells] == [
            (cell.kind, cell.text[language], cell.tags) for cell in cells
        ]


SOUP = st.lists(
    st.sampled_from(
        [
            "# %%",
            "# %% [markdown]",
            '# %% [markdown] lang="en"',
            '# %% [markdown] lang="zh-TW"',
            '# %% tags=["a"]',
            "#%%",
            "# %% x",
            "# %%%",
            "    # %%",
            "# text",
            "x = 1",
            "",
            '"""',
            "# SOLUTION 1",
            "# END SOLUTION",
            "    # SOLUTION 1",
            "    # END SOLUTION",
            "def f():",
            "    pass",
            "(",
            "\\",
            "\ufeff",
            "\x00",
        ]
    ),
    max_size=12,
).map("\n".join)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100) | SOUP)
def test_any_text_is_read_or_refused_with_its_file_and_line(directory: Path, text: str) -> None:
    path = directory / "01-soup.py"
    path.write_text(text, encoding="utf-8")
    for read in (sources.read_cells, lambda path: sources.notebook_json(path, "zh-TW"), sources.starter_source, sources.solutions):
        try:
            read(path)
        except UserError as error:
            assert error.code == "bad-source"
            assert re.match(rf"{re.escape(directory.name)}/01-soup\.py:\d+: ", error.cause.en)


# --- what the notebooks do, seen without running them -------------------------------------------------


def test_a_guess_that_the_text_asks_for_is_known_also_where_the_code_takes_it_by_a_name(toy: catalog.Lab, tmp_path: Path) -> None:
    home = tmp_path / toy.id
    shutil.copytree(toy.directory, home)
    with (home / "01-count.py").open("a", encoding="utf-8") as stream:
        stream.write('\n# %% [markdown] lang="en"\n# Write:\n#\n# ```toml\n# of_two = 1  # first\n# other = 2\n# ```\n')
        stream.write('\n# %% [markdown] lang="zh-TW"\n# 寫下：\n#\n# ```toml\n# of_two = 1\n# other = 2\n# ```\n')
    assert sources.usage(dataclasses.replace(toy, directory=home)).predicted == ("of_two", "other")


def test_usage_knows_who_records_what_and_who_makes_which_artifact(toy: catalog.Lab) -> None:
    usage = sources.usage(toy)
    assert {("error", None), ("error", "off_by_one"), ("agrees", None)} <= usage.records
    assert usage.recorded_in["error"] == {"01-count"}
    assert usage.artifact_makers == {"count.json": "01-count"}


def test_a_variant_that_is_computed_counts_as_any_variant(tmp_path: Path) -> None:
    count = toy_course.COUNT.replace('variant="off_by_one"', 'variant="off_" + "by_one"')
    toy_course.write_lab(tmp_path, count=count)
    assert not sources.verify(catalog.load(tmp_path / "labs").lab(LAB))


def test_a_score_that_no_notebook_records_is_refused(tmp_path: Path) -> None:
    score = '\n[score]\nmetric = "{}"\nobjective = {{ en = "a", zh-TW = "b" }}\nbetter = "lower"\n'
    toy_course.write_lab(tmp_path, manifest=toy_course.MANIFEST + score.format("error"))
    assert not sources.verify(catalog.load(tmp_path / "labs").lab(LAB))
    toy_course.write_lab(tmp_path, manifest=toy_course.MANIFEST + score.format("speed"))
    (error,) = sources.verify(catalog.load(tmp_path / "labs").lab(LAB))
    assert error.code == "bad-manifest"
    assert "score.metric 'speed' which no notebook records" in error.cause.en


def test_verify_collects_every_problem_of_a_lab(tmp_path: Path) -> None:
    lab_directory = toy_course.write_lab(tmp_path, use="# %% [md]\n", counting="# SOLUTION 1\n")
    (lab_directory / "torch.py").write_text("x = 1\n")
    (lab_directory / "random.py").write_text("x = 1\n")
    said = [error.cause.en for error in sources.verify(catalog.load(tmp_path / "labs").lab(LAB))]
    assert any("02-use.py:1" in sentence for sentence in said)
    assert any("counting.py:1" in sentence for sentence in said)
    assert any("torch.py" in sentence and "shadows" in sentence for sentence in said)
    assert any("random.py" in sentence and "shadows" in sentence for sentence in said)


def test_code_that_does_not_parse_is_refused_with_its_line(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path, use=toy_course.USE + "\n# %%\nif\n")
    (error, *_) = sources.verify(catalog.load(tmp_path / "labs").lab(LAB))
    assert error.code == "bad-source"
    lines = toy_course.USE.lstrip("\n").count("\n")
    assert f"02-use.py:{lines + 3}: " in error.cause.en


# --- the reference and the starter ------------------------------------------------------------------


def module(directory: Path, source: str) -> Path:
    path = directory / "module.py"
    path.write_text(textwrap.dedent(source).lstrip("\n"), encoding="utf-8", newline="\n")
    return path


def test_the_starter_has_open_exercises_where_the_reference_has_solutions(tmp_path: Path) -> None:
    path = module(tmp_path, toy_course.COUNTING)
    starter = sources.starter_source(path)
    assert starter == textwrap.dedent(toy_course.COUNTING).lstrip("\n").replace(
        "    # SOLUTION 1\n    return sum(1 for _ in range(steps))\n    # END SOLUTION", '    raise NotImplementedError("Exercise 1")' + KEEP
    ).replace("    # SOLUTION 2\n    return 2 * steps\n    # END SOLUTION", '    raise NotImplementedError("Exercise 2")' + KEEP)
    assert sources.solutions(path) == {1: "    return sum(1 for _ in range(steps))", 2: "    return 2 * steps"}


def test_a_module_without_solutions_is_its_own_starter(tmp_path: Path) -> None:
    path = module(tmp_path, "x = 1\n\n\ndef f() -> int:\n    return x\n")
    assert sources.starter_source(path) == path.read_text(encoding="utf-8")
    assert sources.solutions(path) == {}


@pytest.mark.parametrize(
    ("source", "line", "says"),
    [
        pytest.param(
            "def f():\n    # SOLUTION 1\n    # SOLUTION 2\n    pass\n    # END SOLUTION\n", 3, "inside the one of line 2", id="nested"
        ),
        pytest.param("def f():\n    # SOLUTION 1\n    pass\n", 2, "without its END SOLUTION", id="never closed"),
        pytest.param("def f():\n    pass\n    # END SOLUTION\n", 3, "without its SOLUTION", id="never opened"),
        pytest.param("def f():\n    # SOLUTION\n    pass\n    # END SOLUTION\n", 2, "`# SOLUTION 3`", id="without a number"),
        pytest.param("def f():\n    # solution 1\n    pass\n    # END SOLUTION\n", 2, "`# SOLUTION 3`", id="in small letters"),
        pytest.param("def f():\n    # SOLUTION 1: easy\n    pass\n    # END SOLUTION\n", 2, "alone on its line", id="with more words"),
        pytest.param("def f():\n    # SOLUTION 1\n    pass\n    # END SOLUTION 1\n", 4, "`# END SOLUTION`", id="numbered at its end"),
        pytest.param(
            "def f(:\n    # SOLUTION 1\n    pass\n    # END SOLUTION\n", 1, "the reference does not parse", id="a broken reference"
        ),
        pytest.param("x = (\n    # SOLUTION 1\n    1\n    # END SOLUTION\n)\n", 2, "the starter does not parse", id="inside an expression"),
    ],
)
def test_a_stray_marker_is_refused_with_its_line(tmp_path: Path, source: str, line: int, says: str) -> None:
    said = refusal(sources.starter_source, module(tmp_path, source))
    assert said.startswith(f"{tmp_path.name}/module.py:{line}: ")
    assert says in said


@pytest.mark.parametrize("odd", ["\x0c", "\u2028", "\x85", "\x1d"])
def test_a_comment_with_an_odd_character_stays_one_line_or_is_refused(tmp_path: Path, odd: str) -> None:
    source = f"# before{odd}after it\nx = 1\n"
    path = module(tmp_path, source)
    try:
        assert sources.starter_source(path) == source
    except UserError as error:
        assert "the starter" not in error.cause.en, "the reference is right, so what is wrong is not the starter"


NAMES = st.sampled_from(["a", "b", "c", "d"])
STATEMENTS = st.recursive(
    st.one_of(
        st.builds("{} = {}".format, NAMES, st.integers(-9, 9)),
        st.builds("{} = {!r}".format, NAMES, st.text(st.characters(exclude_categories=["Cs"]), max_size=10)),
        st.builds("# {}".format, st.text("abc SOLUTIN# ", max_size=12).map(lambda text: f"a {text}")).map("{}\npass".format),
        st.just("pass"),
        st.just("text = '''one\n\n  two'''"),
    ),
    lambda inner: st.builds(
        lambda head, body: f"{head}:\n{textwrap.indent(chr(10).join(body), '    ')}",
        st.sampled_from(["if a", "for b in c", "while d", "def g()", "with a as b"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)
BODIES = st.lists(STATEMENTS, min_size=1, max_size=3).map("\n".join)


@given(st.lists(st.tuples(BODIES, st.none() | BODIES, BODIES), min_size=1, max_size=4))
def test_any_solution_is_cut_out_and_nothing_else(directory: Path, functions: list[tuple[str, str | None, str]]) -> None:
    reference, starter, wanted = [], [], {}
    for number, (before, solution, after) in enumerate(functions, start=1):
        head = f"def f{number}():\n{textwrap.indent(before, '    ')}\n"
        tail = f"{textwrap.indent(after, '    ')}\n\n\n"
        if solution is None:
            reference.append(head + tail)
            starter.append(head + tail)
            continue
        body = textwrap.indent(solution, "    ")
        reference.append(f"{head}    # SOLUTION {number}\n{body}\n    # END SOLUTION\n{tail}")
        starter.append(f'{head}    raise NotImplementedError("Exercise {number}"){KEEP}\n{tail}')
        wanted[number] = body
    path = directory / "module.py"
    path.write_text("".join(reference), encoding="utf-8", newline="\n")
    try:
        ast.parse("".join(reference))
    except (SyntaxError, ValueError):
        assume(False)
    assert sources.starter_source(path).rstrip("\n") == "".join(starter).rstrip("\n")
    assert sources.solutions(path) == wanted


# --- how settings were found ------------------------------------------------------------------------------------


def test_a_calibration_is_no_lesson_and_decides_no_result(tmp_path: Path) -> None:
    """Neither checked for exercises nor copied to a learner; published results stay those of the sources."""
    lab = catalog.read_manifest(toy_course.write_lab(tmp_path) / "lab.toml")
    before, shared = sources_hash(lab), set(of_lab(lab))
    (lab.directory / "calibration.py").write_text("from onepiece.adaptation.search import Search\n", encoding="utf-8")
    assert [path.name for path in sources.modules(lab)] == ["counting.py"]
    assert (sources_hash(lab), set(of_lab(lab))) == (before, shared)
    make_workspace(lab, tmp_path / "copy", "en")
    assert not (tmp_path / "copy" / "calibration.py").exists()
    (lab.directory / "counting.py").write_text("x = 1\n", encoding="utf-8")
    assert sources_hash(lab) != before
