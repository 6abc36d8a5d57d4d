"""Mutants of solutions: each is a module that parses, differs in meaning, and differs inside the solution only."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest
import toy_course
from hypothesis import given
from hypothesis import strategies as st

from onepiece.course import catalog
from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.host.mutation import declared, published
from onepiece.host.mutation.core import Noticed, notebooks_with
from onepiece.host.mutation.mutants import DELETED, Mutant, mutants_of_lab, mutants_of_module
from onepiece.host.mutation.score import Judged, sample, share_killed
from onepiece.host.road import sources

LABS = catalog.load(toy_course.ROOT / "labs").labs
REAL = [path for lab in LABS for path in sources.modules(lab) if sources.regions(path)]


def module(directory: Path, solution: str, before: str = "", after: str = "") -> Path:
    """A module whose exercise 1 is `solution`, in a function."""
    path = directory / "module.py"
    body = textwrap.indent(textwrap.dedent(solution).strip("\n"), "    ")
    path.write_text(f"{before}def function(a, b, values):\n    # SOLUTION 1\n{body}\n    # END SOLUTION\n{after}", encoding="utf-8")
    return path


def changes(directory: Path, solution: str) -> list[str]:
    return [mutant.change for mutant in mutants_of_module(module(directory, solution)) if mutant.change != DELETED]


def bodies(directory: Path, solution: str) -> list[str]:
    """The solution of every mutant."""
    made = mutants_of_module(module(directory, solution))
    return [textwrap.dedent(mutant.source.split("# SOLUTION 1\n")[1].split("    # END SOLUTION")[0]).strip() for mutant in made]


# --- what is changed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        ("a + b", ["`a + b` -> `a - b`"]),
        ("a - b * 1.5", ["`a - b * 1.5` -> `a + b * 1.5`", "`b * 1.5` -> `b / 1.5`"]),
        ("(a) // (b)", ["`(a) // (b)` -> `(a) / (b)`"]),
        ("a ** b", ["`a ** b` -> `a * b`"]),
        ("a += b", ["`a += b` -> `a -= b`"]),
        ("a //= b", ["`a //= b` -> `a /= b`"]),
        ("a &= b", ["`a &= b` -> `a |= b`"]),
        ("a < b <= 2.5", ["`a < b <= 2.5` -> `a <= b <= 2.5`", "`a < b <= 2.5` -> `a < b < 2.5`"]),
        ("a == b", ["`a == b` -> `a != b`"]),
        ("a not in b", ["`a not in b` -> `a in b`"]),
        ("a is not None", ["`a is not None` -> `a is None`"]),
        ("a and b and values", ["`a and b and values` -> `a or b and values`", "`a and b and values` -> `a and b or values`"]),
        ("not a", ["`not a` -> `a`"]),
        ("-a", ["`-a` -> `a`"]),
        ("~(a & b)", ["`~(a & b)` -> `(a & b)`", "`a & b` -> `a | b`"]),
        ("values[0]", ["`values[0]` -> `values[1]`"]),
        ("values[-1]", ["`values[-1]` -> `values[0]`"]),
        ("values[..., 2]", ["`values[..., 2]` -> `values[..., 1]`"]),
        ("values[1:]", ["`values[1:]` -> `values[0:]`", "`values[1:]` -> `values[2:]`"]),
        ("a.sum(dim=-1)", ["`a.sum(dim=-1)` -> `a.sum()`", "`a.sum(dim=-1)` -> `a.sum(dim=0)`"]),
        ("a.sum(axis=(0, -2))", ["`a.sum(axis=(0, -2))` -> `a.sum()`", "`a.sum(axis=(0, -2))` -> `a.sum(axis=(1, -2))`",
                                 "`a.sum(axis=(0, -2))` -> `a.sum(axis=(0, -1))`"]),
        ("a.sum(keepdim=True, dtype=b)", ["`a.sum(keepdim=True, dtype=b)` -> `a.sum(dtype=b)`",
                                          "`a.sum(keepdim=True, dtype=b)` -> `a.sum(keepdim=False, dtype=b)`",
                                          "`a.sum(keepdim=True, dtype=b)` -> `a.sum(keepdim=True)`"]),
        ("f(a, key=(b))", ["`f(a, key=(b))` -> `f(a)`"]),
        ("f(key=b,)", ["`f(key=b,)` -> `f()`"]),
        ("f(**values)", []),
        ("f(a, b)", ["`f(a, b)` -> `f(b, a)`"]),
        ("f(a, a)", []),
        ("f(a, b.c)", []),
        ("max(a, b)", []),  # cannot be told from max(b, a)
        ("zip(a, b, strict=True)", ["`zip(a, b, strict=True)` -> `zip(b, a, strict=True)`"]),
        ("a = 3", ["`a = 3` -> `a = 2`", "`a = 3` -> `a = 4`"]),
        ("a = 4096", []),
        ("a = 0.5", []),
        ("a = True", ["`a = True` -> `a = False`"]),
        ("a if b else values", ["`b` -> `not b`"]),
        ("[a for a in values if a.good]", ["`a.good` -> `not a.good`"]),
        ("f'{a + 1} {b - 1}' 'c'", []),
        ("a: dict[int, Literal[3]] = b", []),
        ("'ä' + '貓' * 2.5  # 貓", ["`'ä' + '貓' * 2.5` -> `'ä' - '貓' * 2.5`", "`'貓' * 2.5` -> `'貓' / 2.5`"]),
    ],
)  # fmt: skip
def test_an_expression_has_these_mutants_and_no_others(tmp_path: Path, solution: str, expected: list[str]) -> None:
    assert sorted(changes(tmp_path, solution)) == sorted(expected)


@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        ("return a", ["pass"]),
        ("f(a)\ng(b)", ["pass\ng(b)", "f(a)\npass"]),
        ('"""A docstring."""\nf(a)', ['"""A docstring."""\npass']),
        ("pass", []),
        ("for a in values:\n    f(a)", ["pass", "for a in values:\n    pass"]),
        ("@f\ndef g(): ...", ["pass", "@f\ndef g(): pass"]),
        ("f(\n    a,\n)\ng(b)", ["pass\n\n\ng(b)", "f(\n    a,\n)\npass"]),
        ("if a < b: f(a); g(b)", ["if a <= b: f(a); g(b)", "if a < b: pass; g(b)", "if a < b: f(a); pass", "pass"]),
        (
            "if a is b:\n    f(a)\nelif a is values:\n    f(b)\nelse:\n    f(values)",
            [
                "pass",
                "if a is not b:\n    f(a)\nelif a is values:\n    f(b)\nelse:\n    f(values)",
                "if a is b:\n    pass\nelif a is values:\n    f(b)\nelse:\n    f(values)",
                "if a is b:\n    f(a)\nelse: pass",
                "if a is b:\n    f(a)\nelif a is not values:\n    f(b)\nelse:\n    f(values)",
                "if a is b:\n    f(a)\nelif a is values:\n    pass\nelse:\n    f(values)",
                "if a is b:\n    f(a)\nelif a is values:\n    f(b)\nelse:\n    pass",
            ],
        ),
    ],
)
def test_each_statement_is_left_out_in_turn(tmp_path: Path, solution: str, expected: list[str]) -> None:
    assert sorted(bodies(tmp_path, solution)) == sorted(expected)


def test_a_mutant_says_where_it_is_and_what_was_changed(tmp_path: Path) -> None:
    path = module(tmp_path, "total = a * 2.5  # doubled, and more\nreturn total")
    first, second, third = mutants_of_module(path)
    assert (first.module, first.exercise, first.line, first.text, first.change) == ("module.py", 1, 3, "total = a * 2.5", DELETED)
    assert (second.line, second.text, second.change) == (3, "total = a * 2.5", "`a * 2.5` -> `a / 2.5`")
    assert (third.line, third.text, third.change) == (4, "return total", DELETED)
    assert str(second) == "module.py:3  total = a * 2.5  (`a * 2.5` -> `a / 2.5`)"
    assert "# doubled, and more" in second.source


def test_the_same_change_twice_on_a_line_is_told_apart(tmp_path: Path) -> None:
    assert changes(tmp_path, "a < b or a < b") == [
        "`a < b` -> `a <= b`",
        "`a < b or a < b` -> `a < b and a < b`",
        "`a < b` -> `a <= b`, number 2 on this line",
    ]


def test_of_a_long_expression_the_place_of_the_change_is_shown(tmp_path: Path) -> None:
    long = " + ".join(f"a.attribute_{number}" for number in "xyzuvwpq")
    for change in changes(tmp_path, f"f({long}, key=b)"):
        assert len(change) < 250
    (dropped,) = [change for change in changes(tmp_path, f"f({long}, key=b)") if "key=b" in change and " - " not in change]
    assert dropped == "`… + a.attribute_p + a.attribute_q, key=b)` -> `… + a.attribute_p + a.attribute_q)`"


def test_over_several_lines_the_numbers_of_the_others_stay(tmp_path: Path) -> None:
    path = module(tmp_path, "return f(\n    a,  # first\n    key=b,  # second\n)", after="LAST = 1\n")
    for mutant in mutants_of_module(path):
        assert mutant.source.splitlines()[7] == "LAST = 1"


def test_only_solutions_are_changed(tmp_path: Path) -> None:
    path = module(tmp_path, "return a", before="FIRST = 1 + 2\n", after="LAST = 1 + 2\n")
    (only,) = mutants_of_module(path)
    assert only.source.splitlines() == [
        "FIRST = 1 + 2",
        "def function(a, b, values):",
        "    # SOLUTION 1",
        "    pass",
        "    # END SOLUTION",
        "LAST = 1 + 2",
    ]


# --- what holds for all of them ---------------------------------------------------------------------------


def holds_for_all(path: Path) -> list[Mutant]:
    reference = path.read_text(encoding="utf-8")
    meaning = ast.dump(ast.parse(reference))
    lines = reference.splitlines()
    regions = sources.regions(path)
    made = mutants_of_module(path)
    for mutant in made:
        assert ast.dump(ast.parse(mutant.source)) != meaning, mutant
        changed = mutant.source.splitlines()
        assert len(changed) == len(lines), mutant
        differing = {number for number, (old, new) in enumerate(zip(lines, changed, strict=True), start=1) if old != new}
        (region,) = [region for region in regions if region.first <= mutant.line <= region.last]
        assert region.exercise == mutant.exercise
        assert differing <= set(range(region.first, region.last + 1)), mutant
        assert lines[mutant.line - 1].strip().startswith(mutant.text)
    assert len({mutant.source for mutant in made}) == len(made)
    assert len({(mutant.line, mutant.change) for mutant in made}) == len(made)
    return made


@pytest.mark.parametrize("path", REAL, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_mutants_of_the_course_parse_and_differ_in_their_solution_only(path: Path) -> None:
    # Each solution has some: a module with none would be called noticed.
    assert {mutant.exercise for mutant in holds_for_all(path)} == {region.exercise for region in sources.regions(path)}
    assert mutants_of_module(path) == mutants_of_module(path)


ATOMS = st.sampled_from(["a", "b", "-1", "0", "2", "0.5", "True", "values[0]", "values[-1, 1:]", "'貓'", "f'{a + 1}'", "None"])


def _larger(smaller: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(
        ["+", "-", "*", "/", "//", "%", "**", "@", "&", "|", "<", ">=", "==", "in", "not in", "is", "is not", "and", "or"]
    )
    return st.one_of(
        st.builds(lambda left, operator, right: f"({left}) {operator} ({right})", smaller, operators, smaller),
        st.builds(lambda operand: f"not ({operand})", smaller),
        st.builds(lambda operand: f"(\n        # why\n        -({operand})\n    )", smaller),
        st.builds(lambda first, second: f"f(a, b, {first}, dim={second}, keepdim=True)", smaller, smaller),
        st.builds(lambda one, test, other: f"({one} if {test} else {other})", smaller, smaller, smaller),
        st.builds(lambda item, test: f"[{item} for a in values if {test}]", smaller, smaller),
    )


@given(
    expression=st.recursive(ATOMS, _larger, max_leaves=8),
    form=st.sampled_from(["return {}", "a = {}", "a += {}", "if {}:\n        f(a)", "f({})"]),
)
def test_mutants_of_any_solution_parse_and_differ_in_it_only(tmp_path_factory: pytest.TempPathFactory, expression: str, form: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any_module.py"
    solution = form.format(expression)
    path.write_text(
        f"def function(a, b, values):\n    # SOLUTION 1\n    {solution}\n    # END SOLUTION\n    return 1 + 1\n", encoding="utf-8"
    )
    assert holds_for_all(path)


# --- mutants.toml -----------------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    toy_course.write_lab(tmp_path)
    return catalog.load(tmp_path / "labs").lab(toy_course.LAB)


def read(lab: Lab, text: str) -> declared.Declared:
    (lab.directory / declared.FILE).write_text(text, encoding="utf-8")
    return declared.read(lab, mutants_of_lab(lab))


EQUIVALENT = '[[equivalent]]\nmodule = "counting.py"\nline = "return 2 * steps"\nchange = "`2 * steps` -> `2 / steps`"\nreason = "a joke"\n'
CORE = '[[core]]\nmodule = "counting.py"\nline = "return 2 * steps"\n'


def test_without_the_file_nothing_is_said(lab: Lab) -> None:
    assert declared.read(lab, mutants_of_lab(lab)) == declared.Declared()


def test_entries_stand_for_the_mutants_that_they_fit(lab: Lab) -> None:
    said = read(lab, EQUIVALENT + CORE)
    assert [mutant.change for mutant in said.equivalent] == ["`2 * steps` -> `2 / steps`"]
    assert [(mutant.line, mutant.change) for mutant in said.core] == [(14, DELETED)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "an empty file"),
        ("[[equivalent]", "not TOML"),
        ("[[equal]]\nmodule = 'a'\n", "key equal: found an unknown key (did you mean equivalent?)"),
        ("equivalent = 3\n", "key equivalent: found 3; allowed: [[equivalent]] tables"),
        (EQUIVALENT.replace('reason = "a joke"', 'reason = " "'), "key equivalent[0].reason: found ' '; allowed: a non-empty string"),
        (EQUIVALENT.replace('reason = "a joke"', ""), "key equivalent[0].reason: found missing"),
        (EQUIVALENT + EQUIVALENT.replace("change", "chance"), "key equivalent[1].change: found missing"),
        (EQUIVALENT + "why = 1\n", "key equivalent[0].why: found an unknown key"),
        (EQUIVALENT.replace("counting.py", "count.py"), "key equivalent[0].module: found 'count.py'; allowed: counting.py"),
        (EQUIVALENT.replace("2 * steps\"", "3 * steps\""), "key equivalent[0].line: found 'return 3 * steps'; allowed: a line of a solution; the nearest is 'return 2 * steps'"),
        (EQUIVALENT.replace("2 / steps", "2 // steps"), "the nearest is '`2 * steps` -> `2 / steps`'"),
        (CORE + 'change = "delete"\n', "key core[0].change: found 'delete'; allowed: what nox -s mutate does to that line; the nearest is 'deleted'"),
        (CORE + 'reason = "x"\n', "key core[0].reason: found an unknown key"),
    ],
)  # fmt: skip
def test_a_mistake_in_it_is_refused_with_its_place(lab: Lab, text: str, says: str) -> None:
    with pytest.raises(UserError) as refusal:
        read(lab, text)
    assert refusal.value.code == "bad-mutants"
    assert f"{toy_course.LAB}/mutants.toml" in refusal.value.cause.en
    assert says in refusal.value.cause.en


# --- what is published ------------------------------------------------------------------------------------


def test_what_the_gates_said_stays_while_the_code_does(lab: Lab) -> None:
    mutants = mutants_of_lab(lab)
    judged = [Judged(mutant, "killed") for mutant in mutants]
    path = published.write(lab, judged, [Noticed(mutants[0], ("01-count",), ("gate error",))], {})
    first = path.read_bytes()
    core = published.read(lab)["core"]
    assert [line["noticed_by"] for line in core["lines"]] == [["gate error"]]
    notebook = lab.directory / "01-count.py"
    notebook.write_text(notebook.read_text(encoding="utf-8").replace("How many?", "How many are there?"), encoding="utf-8")
    published.write(lab, judged, [], {})
    assert path.read_bytes() == first, "prose decides nothing"
    notebook.write_text(notebook.read_text(encoding="utf-8").replace("1.0, seed=seed", "2.0, seed=seed"), encoding="utf-8")
    published.write(lab, judged, [], {})
    assert "core" not in published.read(lab)


def test_a_mutant_that_nobody_can_notice_counts_neither_way(lab: Lab) -> None:
    fates = ["killed", "timed_out", "survived", "equivalent", "killed", "killed", "killed"]
    judged = [Judged(mutant, fate) for mutant, fate in zip(mutants_of_lab(lab), fates, strict=True)]
    assert share_killed(judged) == 5 / 6
    assert share_killed([]) == 1.0
    assert share_killed(judged[3:4]) == 1.0


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_a_sample_is_always_the_same_and_spread_over_all(lab: Lab, size: int) -> None:
    mutants = mutants_of_lab(lab)
    drawn = sample(mutants, size)
    assert drawn == sample(mutants, size)
    assert len(drawn) == len(set(drawn)) == min(size, len(mutants))
    assert drawn == sorted(drawn, key=mutants.index)
    assert sample(mutants, None) == mutants


# --- which notebooks run a module -------------------------------------------------------------------------


def test_a_notebook_uses_what_it_imports_what_that_imports_and_what_it_names(tmp_path: Path) -> None:
    code = {
        "first": "import one as other\n" + toy_course.GOOD,
        "second": "from two.part import thing",
        "third": 'start("three")',
        "fourth": '# one\nlab.say("about one", "two")',
    }
    directory = toy_course.write_quick_lab(tmp_path, toy_course.LAB, **code)
    for name, source in {"one": "import three", "two": "def f():\n    import one", "three": ""}.items():
        (directory / f"{name}.py").write_text(source + "\n", encoding="utf-8")
    lab = catalog.load(tmp_path / "labs").lab(toy_course.LAB)
    assert notebooks_with(lab, "one") == ("01-first", "02-second", "04-fourth")
    assert notebooks_with(lab, "two") == ("02-second", "04-fourth")
    assert notebooks_with(lab, "three") == ("01-first", "02-second", "03-third", "04-fourth")
