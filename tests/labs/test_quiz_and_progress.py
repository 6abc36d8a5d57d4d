"""Quizzes, progress and feedback as someone at a terminal meets them: real processes, a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_course
from toy_course import LAB, Checkout

on_a_terminal = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminal of this kind")
PATIENCE = 60.0

QUIZ = """
[[questions]]
id = "even"
kind = "single"
prompt = { en = "Which of `2` and `3` is even?", zh-TW = "`2` 和 `3` 哪個是偶數？" }
[[questions.choices]]
text = { en = "two", zh-TW = "二" }
correct = true
explanation = { en = "Two is twice one, so it is even.", zh-TW = "二是一的兩倍，所以是偶數。" }
[[questions.choices]]
text = { en = "three", zh-TW = "三" }
explanation = { en = "Three has a half that is no integer.", zh-TW = "三的一半不是整數。" }

[[questions]]
id = "memory"
kind = "numeric"
prompt = { en = "How much do 10^9 float32 need?", zh-TW = "10^9 個 float32 需要多少？" }
answer = 4.0
tolerance = 0.01
unit = "GB"
explanation = { en = "Four bytes each.", zh-TW = "每個四位元組。" }

[[questions]]
id = "count"
kind = "order"
prompt = { en = "Count.", zh-TW = "請數數。" }
[[questions.choices]]
text = { en = "one", zh-TW = "一" }
explanation = { en = "Counting begins at one.", zh-TW = "從一開始數。" }
[[questions.choices]]
text = { en = "two", zh-TW = "二" }
explanation = { en = "Two comes after one.", zh-TW = "二在一之後。" }
"""


class Terminal:
    """A process on a pseudo-terminal."""

    def __init__(self, command: list[str], environ: dict[str, str], directory: Path) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(directory)
            os.execve(command[0], command, environ | {"TERM": "dumb", "NO_COLOR": "1"})
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 140, 0, 0))
        self.shown = ""

    def until(self, words: str) -> str:
        """Everything that is shown until `words` are, since the last call."""
        begin = time.monotonic()
        while words not in self.shown:
            assert time.monotonic() - begin < PATIENCE, f"{words!r} is not in {self.shown!r}"
            if not self._read():
                break
        assert words in self.shown, self.shown
        before, _, self.shown = self.shown.partition(words)
        return before + words

    def type(self, words: str) -> None:
        os.write(self._terminal, words.encode())

    def end(self) -> tuple[int, str]:
        """The exit code, and what is shown to the end."""
        while self._read():
            pass
        status = toy_course.status_of(self.pid, PATIENCE)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status), self.shown

    def _read(self) -> bool:
        try:
            if select.select([self._terminal], [], [], PATIENCE)[0]:
                data = os.read(self._terminal, 4096)
                self.shown += data.decode(errors="replace").replace("\r\n", "\n")
                return bool(data)
        except OSError:  # the other side is closed
            pass
        return False


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = Checkout.make(tmp_path_factory.mktemp("course"))
    (made.root / "labs" / LAB / "quiz.toml").write_text(QUIZ, encoding="utf-8")
    chapter = made.root / "docs" / "chapters" / "1.3-counting"
    chapter.mkdir(parents=True)
    (chapter / "quiz.toml").write_text(QUIZ, encoding="utf-8")
    return made


@pytest.fixture
def checkout(source: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """A learner who did nothing yet."""
    yield source.elsewhere(tmp_path / "home")


def on_terminal(checkout: Checkout, *arguments: str, **environ: str) -> Terminal:
    return Terminal(checkout.host_command(*arguments), checkout.host_environ | environ, checkout.root)


def letter_of(shown: str, choice: str) -> str:
    """The letter before a choice."""
    found = re.search(rf"^\s+([a-h]) {choice}\s*$", shown, re.MULTILINE)
    assert found, shown
    return found[1]


def answers(checkout: Checkout) -> list[tuple[str, bool]]:
    with sqlite3.connect(checkout.home / "progress.sqlite") as connection:
        rows = connection.execute("SELECT data FROM events WHERE kind = 'quiz_answer' ORDER BY at, rowid").fetchall()
    connection.close()
    return [(json.loads(data)["question"], json.loads(data)["correct"]) for (data,) in rows]


# --- the quiz -----------------------------------------------------------------------------------------------


def test_quizzes_are_listed_also_without_a_terminal(checkout: Checkout) -> None:
    done = checkout.host("quiz")
    assert done.code == 0
    assert re.search(r"1\.3 +│ Chapter 1\.3 +│ +3 │ +— │ +— │", done.output)
    assert re.search(rf"{LAB} │ A toy +│ +3 │", done.output)
    assert "nox -s quiz -- 1.3" in done.output
    assert not (checkout.home / "progress.sqlite").exists(), "looking is no progress"


@on_a_terminal
def test_a_quiz_is_asked_explained_kept_and_its_missed_question_asked_again(checkout: Checkout) -> None:
    terminal = on_terminal(checkout, "quiz", "lab-9.1")
    shown = terminal.until("> ")
    assert "3 questions." in shown
    assert "1/3  Which of 2 and 3 is even?" in shown
    terminal.type(f"{letter_of(shown, 'three')}\n")
    said = terminal.until("2/3")
    assert "✗ Not right." in said
    assert "Three has a half that is no integer." in said, "what was chosen"
    assert "Two is twice one, so it is even. (this one)" in said, "what is right"
    terminal.until("> ")
    terminal.type("about four\n")
    assert "a number, in GB" in terminal.until("> ")
    terminal.type("4.02 GB\n")
    said = terminal.until("3/3")
    assert "✓ Right." in said
    assert "4 GB  Four bytes each." in said
    shown = terminal.until("> ")
    terminal.type(f"{letter_of(shown, 'one')} {letter_of(shown, 'two')}\n")
    code, said = terminal.end()
    assert code == 0
    assert "Counting begins at one." in said and "Two comes after one." in said
    assert "2 of 3 right" in said
    assert f"nox -s quiz -- {LAB} --missed" in said
    assert answers(checkout) == [("even", False), ("memory", True), ("count", True)]

    assert re.search(rf"{LAB} │ A toy +│ +3 │ +2 │ +1 │", checkout.host("quiz").output)
    terminal = on_terminal(checkout, "quiz", LAB, "--missed", "--lang", "zh-TW")
    shown = terminal.until("> ")
    assert "共 1 題" in shown
    assert "2 和 3 哪個是偶數？" in shown
    terminal.type(f"{letter_of(shown, '二')}\n")
    code, said = terminal.end()
    assert code == 0
    assert "✓ 答對了。" in said
    assert "二是一的兩倍，所以是偶數。" in said
    assert "三的一半不是整數" not in said, "nobody asked about that"

    done = checkout.host("quiz", LAB, "--missed")
    assert (done.code, done.output.strip()) == (0, "You have no missed questions here.")
    progress = checkout.host("progress").output
    assert "3/6" in progress
    assert re.search(rf"★ Every miss put right +{LAB}", progress)


@on_a_terminal
def test_the_order_of_the_choices_is_that_of_the_seed(checkout: Checkout) -> None:
    shown = []
    for seed in ("5", "5"):
        terminal = on_terminal(checkout, "quiz", LAB, "--seed", seed)
        shown.append(terminal.until("> "))
        terminal.type("\x03")
        terminal.end()
    assert shown[0] == shown[1]


@on_a_terminal
@pytest.mark.parametrize("how", ["\x03", "\x04"], ids=["ctrl-c", "ctrl-d"])
def test_leaving_in_the_middle_keeps_the_answers_so_far(checkout: Checkout, how: str) -> None:
    terminal = on_terminal(checkout, "quiz", LAB)
    shown = terminal.until("> ")
    terminal.type(f"{letter_of(shown, 'two')}\n")
    terminal.until("2/3")
    terminal.until("> ")
    terminal.type(how)
    code, said = terminal.end()
    assert code == 130
    assert "Stopped after 1 of 3 questions." in said
    assert "1 of 1 right" in said
    assert "Traceback" not in said
    assert answers(checkout) == [("even", True)]


@pytest.mark.fault("killed-writer-of-progress")
@on_a_terminal
def test_a_quiz_that_is_killed_keeps_the_answers_so_far(checkout: Checkout) -> None:
    terminal = on_terminal(checkout, "quiz", LAB)
    shown = terminal.until("> ")
    terminal.type(f"{letter_of(shown, 'two')}\n")
    terminal.until("✓")
    os.kill(terminal.pid, signal.SIGKILL)
    assert terminal.end()[0] == -signal.SIGKILL
    assert answers(checkout) == [("even", True)]


@on_a_terminal
def test_it_works_through_nox(checkout: Checkout) -> None:
    terminal = Terminal(checkout.nox_command("-s", "quiz", "--", "1.3"), checkout.environ, checkout.root)
    shown = terminal.until("   > ")
    terminal.type(f"{letter_of(shown, 'two')}\n")
    terminal.until("2/3")
    terminal.type("\x03")
    code, said = terminal.end()
    assert code == 130
    assert "Stopped after 1 of 3 questions." in said
    assert answers(checkout) == [("even", True)]


def test_without_a_terminal_it_says_so_and_fails(checkout: Checkout) -> None:
    done = checkout.host("quiz", LAB)
    assert done.code == 2
    assert "there is no terminal to answer in" in done.output
    assert "Traceback" not in done.output
    assert not (checkout.home / "progress.sqlite").exists()


def test_an_unknown_quiz_suggests_the_nearest(checkout: Checkout) -> None:
    done = checkout.host("quiz", "lab-9.1-toys")
    assert done.code == 2
    assert f"nox -s quiz -- {LAB}" in done.output


def test_a_broken_quiz_is_named_and_the_others_are_listed(source: Checkout, tmp_path: Path) -> None:
    checkout = Checkout.make(tmp_path / "course")
    broken = QUIZ.replace('explanation = { en = "Three has a half that is no integer.", zh-TW = "三的一半不是整數。" }', "")
    (checkout.root / "labs" / LAB / "quiz.toml").write_text(broken, encoding="utf-8")
    for arguments in (["quiz"], ["quiz", LAB]):
        done = checkout.host(*arguments)
        assert done.code == 2
        assert f"labs/{LAB}/quiz.toml, question even, choice 2, key explanation: found missing" in done.words
    assert "labs/lab-9.1-toy/quiz.toml" in checkout.host("progress").words, "a note; the rest is shown"


@pytest.mark.fault("damaged-progress")
@on_a_terminal
def test_a_damaged_progress_is_named_left_alone_and_the_quiz_goes_on(checkout: Checkout) -> None:
    file = checkout.home / "progress.sqlite"
    file.write_text("not a database", encoding="utf-8")
    terminal = on_terminal(checkout, "quiz", LAB)
    shown = terminal.until("> ")
    assert "progress was not kept" in shown
    terminal.type(f"{letter_of(shown, 'two')}\n")
    said = terminal.until("2/3")
    assert "✓ Right." in said
    terminal.type("\x03")
    assert terminal.end()[0] == 130
    assert file.read_text(encoding="utf-8") == "not a database"
    done = checkout.host("progress")
    assert done.code == 2
    assert "holds no progress that can be read, and is left as it is" in done.words


# --- progress -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy(source: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A learner who ran the lab, solved one exercise of two, and knows what the reference is worth."""
    made = source.elsewhere(tmp_path_factory.mktemp("busy") / "home")
    assert made.host("run", LAB).code == 0
    assert made.host("start", LAB).code == 0
    module = made.home / "workspace" / LAB / "counting.py"
    starter = module.read_text(encoding="utf-8")
    module.write_text(starter.replace('raise NotImplementedError("Exercise 1")', "return steps"), encoding="utf-8")
    assert made.host("check", LAB, "--reference").code == 0
    assert made.host("check", LAB).code == 1
    assert made.host("check", LAB).code == 1
    return made


def test_a_run_and_the_checks_are_recorded(busy: Checkout) -> None:
    done = busy.host("progress")
    assert done.code == 0
    assert re.search(rf"✓ +{LAB} +passed +1 +1/2 ", done.output), done.output
    assert re.search(rf"★ Every control missed +{LAB}", done.output)
    assert re.search(r"☆ Every exercise in your own code", done.output)
    assert "1 of its exercises are open" in done.output


def test_progress_travels_to_another_machine_and_back(busy: Checkout, checkout: Checkout, tmp_path: Path) -> None:
    exports = [tmp_path / name for name in ("here.json", "there.json")]
    assert busy.host("progress", "--export", "json", str(exports[0])).code == 0
    first = checkout.host("progress", "--import", str(exports[0]))
    again = checkout.host("progress", "--import", str(exports[0]))
    count = len(json.loads(exports[0].read_text(encoding="utf-8"))["events"])
    assert f"{count} events read, {count} of them new." in first.words
    assert f"{count} events read, 0 of them new." in again.words
    assert checkout.host("progress", "--export", "json", str(exports[1])).code == 0
    assert json.loads(exports[0].read_text())["events"] == json.loads(exports[1].read_text())["events"]
    shown = [re.sub(r"Kept in.*", "", done.output) for done in (busy.host("progress"), checkout.host("progress"))]
    assert shown[0] == shown[1]


def test_exports_for_people(busy: Checkout, tmp_path: Path) -> None:
    for kind in ("csv", "html"):
        assert busy.host("progress", "--export", kind, str(tmp_path / f"progress.{kind}")).code == 0
    assert (tmp_path / "progress.csv").read_text(encoding="utf-8").startswith("id,at,kind,subject,")
    assert LAB in (tmp_path / "progress.html").read_text(encoding="utf-8")
    done = busy.host("progress", "--export", "csv", str(tmp_path / "progress.csv"))
    assert done.code == 2
    assert "exists already" in done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--import", "nothing.json"], "nothing.json cannot be imported: No such file"),
        (["--import", "noxfile.py"], "noxfile.py cannot be imported: it is no JSON export"),
        (["--export", "pdf", "x.pdf"], "json | csv | html"),
        (["--export", "json"], "expected 2 arguments"),
        (["--path", "boss"], "invalid choice: 'boss'"),
        (["--path", "engineer"], "There is no learning path named engineer"),
    ],
)
def test_a_mistake_is_one_line_of_cause_and_one_of_remedy(checkout: Checkout, arguments: list[str], says: str) -> None:
    done = checkout.host("progress", *arguments)
    assert done.code == 2
    assert says in done.words
    assert "Traceback" not in done.output


@pytest.mark.fault("damaged-progress")
def test_a_lab_passes_also_where_its_progress_cannot_be_kept(checkout: Checkout) -> None:
    file = checkout.home / "progress.sqlite"
    file.write_text("not a database", encoding="utf-8")
    done = checkout.host("run", LAB)
    assert done.code == 0
    assert "PASSED" in done.output
    assert "note progress was not kept" in done.words
    assert file.read_text(encoding="utf-8") == "not a database"


def test_two_labs_that_end_at_once_are_both_recorded(source: Checkout, checkout: Checkout) -> None:
    command, environ = checkout.host_command("run", LAB), checkout.host_environ
    both = [subprocess.Popen(command, cwd=checkout.root, env=environ, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert re.search(rf"{LAB} +passed +2 ", checkout.host("progress").output)


# --- feedback -----------------------------------------------------------------------------------------------


def give_feedback(checkout: Checkout, *lines: str) -> tuple[int, str]:
    terminal = on_terminal(checkout, "feedback", LAB)
    for line in lines:
        terminal.until("> ")
        terminal.type(line)
    return terminal.end()


@on_a_terminal
def test_feedback_is_saved_here_and_says_that_there_is_nowhere_to_send_it(checkout: Checkout) -> None:
    code, said = give_feedback(checkout, "7\n", "4\n", "25\n", "\n", "The 第二 table\n", "\n", "The controls\n")
    assert code == 0
    (file,) = (checkout.home / "feedback").iterdir()
    assert file.name.startswith(f"{LAB}-") and file.suffix == ".md"
    text = file.read_text(encoding="utf-8")
    assert "The 第二 table" in text and "The controls" in text and "\n4\n" in text and "\n7\n" not in text
    assert str(checkout.home) not in text, "no paths"
    assert "repository in [project.urls] of pyproject.toml is not set" in " ".join(said.split())


@on_a_terminal
def test_feedback_links_to_the_form_with_the_answers_where_the_repository_is_known(checkout: Checkout, tmp_path: Path) -> None:
    known = Checkout.make(tmp_path / "known")
    project = known.root / "pyproject.toml"
    text = re.sub(r"^# (\[project\.urls\]|repository = .*)$", r"\1", project.read_text(encoding="utf-8"), flags=re.MULTILINE)
    project.write_text(text, encoding="utf-8")
    _, said = give_feedback(known, "5\n", "\n", "\n", "a & b\n", "\n", "\n")
    assert (
        f"https://github.com/OWNER/REPOSITORY/issues/new?template=lab-feedback.yml&title={LAB}%3A+&lab={LAB}&clarity=5&wrong=a+%26+b"
        in said
    )


@on_a_terminal
def test_feedback_that_is_left_keeps_what_was_written(checkout: Checkout) -> None:
    code, _ = give_feedback(checkout, "2\n", "\x03")
    assert code == 130
    assert len(list((checkout.home / "feedback").iterdir())) == 1
    code, said = give_feedback(checkout, "\x03")
    assert code == 130
    assert "nothing was saved" in said
    assert len(list((checkout.home / "feedback").iterdir())) == 1


def test_feedback_without_a_terminal_says_so(checkout: Checkout) -> None:
    done = checkout.host("feedback", LAB)
    assert done.code == 2
    assert "lab-feedback.yml" in done.output


def test_the_issue_form_asks_what_the_terminal_asks() -> None:
    from onepiece.host.commands.feedback import FIELDS, TEMPLATE

    form = (toy_course.ROOT / ".github" / "ISSUE_TEMPLATE" / TEMPLATE).read_text(encoding="utf-8")
    assert re.findall(r"^    id: (\w+)$", form, re.MULTILINE) == ["lab", *(field.id for field in FIELDS), "about"]
    for field in FIELDS:
        assert field.asks.en in form and field.asks.zh_tw in form


# --- how quickly they start ---------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["quiz", "progress", "feedback"])
def test_they_load_nothing_heavy(module: str) -> None:
    program = f"import sys; import onepiece.host.commands.{module}; print(*sorted(sys.modules))"
    environ = os.environ | {"PYTHONPATH": str(toy_course.ROOT / "shared")}
    loaded = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True).stdout.split()
    assert not {"jinja2", "jsonschema", "docker", "requests", "virtualenv", "nbformat", "jupytext", "torch"} & set(loaded)
