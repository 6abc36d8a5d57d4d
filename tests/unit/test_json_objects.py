"""A file of ours that holds something else than we wrote is as good as none."""

from __future__ import annotations

from pathlib import Path

import pytest

from onepiece.course.json_objects import read_object
from onepiece.host.commands import serving


@pytest.mark.fault("file-of-another-shape")
@pytest.mark.parametrize("content", ["[1]", "null", "", "{", '"text"', "[" * 100_000, b"\xff\xfe"])
def test_what_is_no_object_is_nothing(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read_object(path) == {}
    assert read_object(tmp_path) == {} == read_object(tmp_path / "nowhere")


def test_an_object_is_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"owner": 1}', encoding="utf-8")
    assert read_object(tmp_path / "state.json") == {"owner": 1}


@pytest.mark.fault("file-of-another-shape")
@pytest.mark.parametrize("content", ["[1]", "{}", '{"owner": "x"}', '{"owner": 1}', '{"owner": [], "url": 1, "ready": 0}'])
def test_a_state_that_no_stack_wrote_is_no_running_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    (tmp_path / "state.json").write_text(content, encoding="utf-8")
    monkeypatch.setattr(serving, "_STATE", tmp_path / "state.json")
    assert serving._state() == {}
