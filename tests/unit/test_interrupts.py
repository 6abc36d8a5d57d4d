"""Being asked to stop, by real signals to real processes: nothing that a library does with the exception makes it go unheard."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest
import toy_course
from parts import linux_only

from onepiece.course.places import SHARED
from onepiece.host import interrupts
from onepiece.host.interrupts import Aside

pytestmark = linux_only

PATIENCE = 30.0

# What a process has at hand: signals to itself, and an object whose close() hears one while Python finalises it, as HTTP responses do.
TOOLS = """
import io, os, signal, threading, time
from onepiece.host import interrupts
from onepiece.host.interrupts import Aside

def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
    time.sleep(0.01)

class Response(io.RawIOBase):
    def close(self):
        send()

def lose_an_interrupt():
    Response()

def never():
    read, write = os.pipe()
    yield from os.fdopen(read)
"""


def run(script: str) -> tuple[int, str]:
    """Exit code and output of a process with these lines below `interruptible`."""
    code = TOOLS + "try:\n with interrupts.interruptible():\n" + textwrap.indent(textwrap.dedent(script), "  ")
    code += "\nexcept KeyboardInterrupt:\n print('stopped')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SHARED)}, capture_output=True, text=True, timeout=PATIENCE,
        preexec_fn=toy_course.hear_signals,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_signal_stops_what_waits(name: str) -> None:
    script = f"threading.Timer(0.2, send, [signal.{name}]).start()\nfor _ in Aside(never()):\n    pass\nprint('ended by itself')"
    assert run(script) == (0, "stopped\n")


def test_python_loses_an_interrupt_of_an_object_that_is_finalised() -> None:
    """The control: without the note, the next test would wait for ever."""
    assert run("lose_an_interrupt()\nprint('went on')") == (0, "went on\n")


@pytest.mark.fault("lost-interrupt")
def test_a_lost_interrupt_is_heard_by_the_next_wait() -> None:
    assert run("lose_an_interrupt()\nfor _ in Aside(never()):\n    pass\nprint('ended by itself')") == (0, "stopped\n")


@pytest.mark.fault("lost-interrupt")
def test_a_lost_interrupt_is_heard_by_the_next_read() -> None:
    """A key between a prompt and its read; `run` gives no input, so the read is of what never comes."""
    script = "read, _ = os.pipe()\nos.dup2(read, 0)\nlose_an_interrupt()\ninterrupts.read_line()\nprint('ended by itself')"
    assert run(script) == (0, "stopped\n")


def test_lines_that_come_in_pieces_or_together_are_read_one_by_one() -> None:
    script = """
        read, write = os.pipe()
        os.dup2(read, 0)
        os.write(write, "a\\n二\\n\\nla".encode())
        os.close(read)
        threading.Timer(0.2, lambda: (os.write(write, b"st"), os.close(write))).start()
        print([interrupts.read_line() for _ in range(4)])
        try:
            interrupts.read_line()
        except EOFError:
            print("no more")
    """
    assert run(script) == (0, "['a', '二', '', 'last']\nno more\n")


@pytest.mark.fault("lost-interrupt")
def test_a_lost_interrupt_is_heard_behind_what_must_not_be_cut() -> None:
    assert run("lose_an_interrupt()\nwith interrupts.held_interrupts():\n    print('whole')\nprint('went on')") == (0, "whole\nstopped\n")


def test_who_asks_again_while_we_say_that_we_end_changes_nothing() -> None:
    """`run` catches outside of `interruptible`, as the program does; a second signal there ended Python by that signal."""
    code = TOOLS + """
try:
    with interrupts.interruptible():
        send(signal.SIGINT)
except KeyboardInterrupt:
    for number in interrupts.stop_signals():
        send(number)
    print('stopped')
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SHARED)}, capture_output=True, text=True, timeout=PATIENCE,
        preexec_fn=toy_course.hear_signals,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")


def test_what_must_not_be_cut_is_not() -> None:
    assert run("with interrupts.held_interrupts():\n    send()\n    print('whole')\nprint('went on')") == (0, "whole\nstopped\n")


@pytest.mark.fault("impatient-interrupt")
def test_cleaning_up_hears_neither_a_second_interrupt_nor_the_first_one_again() -> None:
    script = """
    try:
        send()
    except KeyboardInterrupt:
        with interrupts.ignore_interrupts():
            send()
            print(list(Aside("ab")))
        interrupts.raise_if_asked()
    """
    assert run(script) == (0, "['a', 'b']\nstopped\n")


def test_handlers_are_as_before_afterwards() -> None:
    before = {number: signal.getsignal(number) for number in interrupts.stop_signals()}
    with interrupts.interruptible(), interrupts.held_interrupts(), interrupts.ignore_interrupts():
        pass
    assert {number: signal.getsignal(number) for number in interrupts.stop_signals()} == before


def test_an_interrupted_loop_leaves_the_rest_to_the_next() -> None:
    lines = Aside(iter("abc"))
    for line in lines:
        assert line == "a"
        break
    assert list(lines) == ["b", "c"]


def test_what_a_source_raises_is_raised_where_it_is_read() -> None:
    def broken():
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(Aside(broken()))
