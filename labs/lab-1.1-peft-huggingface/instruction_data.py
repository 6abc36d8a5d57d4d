"""Raw instructions: made from the small world, or read from one pinned file of the hub, and written in three formats."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepiece import world
from onepiece.course.text import tr
from onepiece.record_files import json_lines
from onepiece.world import Item

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One raw record, before anybody has chosen a format for it."""

    instruction: str
    context: str
    """What the instruction is about; empty if it says everything itself."""
    response: str


def raw_instructions(source: str, revision: str, file: str, count: int) -> list[Instruction]:
    """Instructions of the data set that a profile names.

    Args:
        source: `world`, or OWNER/NAME of a data set on the hub in Dolly's format.
        revision, file: the hub's commit (40 hex digits) and the file's name; empty for the world.
        count: at most so many.

    Raises:
        FileNotFoundError: what `hub_file` raises.
    """
    if source == "world":
        return world_instructions(count)
    rows = json_lines(hub_file(source, revision, file).read_bytes())
    return [_from_dolly(row) for _, row in itertools.islice(rows, count)]


def world_instructions(count: int, seed: int = 0) -> list[Instruction]:
    """Questions that the tiny model can answer, asked as it has never heard them: the instruction first, its context after.

    Three families bring their context along (a story, some boxes, a review), `facts` has none; they take turns.
    """
    each = -(-count // 4)
    turns = zip(*(world.items(family, each, seed) for family in ("story", "facts", "lookup", "sentiment")), strict=True)
    return [_from_item(item) for turn in turns for item in turn][:count]


def _from_item(item: Item) -> Instruction:
    stop, colon = (". ", ": ") if item.language == "en" else ("。", "：")
    if item.family == "sentiment":
        instruction, _, context = item.prompt.partition(colon)
        return Instruction(instruction, context, item.answer)
    context, found, instruction = item.prompt.rpartition(stop)  # the question is the last sentence
    return Instruction(instruction.strip(), context + found.strip(), item.answer)


def _from_dolly(row: Mapping[str, str]) -> Instruction:
    return Instruction(row["instruction"].strip(), row["context"].strip(), row["response"].strip())


def hub_file(repository: str, revision: str, file: str) -> Path:
    """One file of a data set at one commit: from the cache of this machine, or downloaded into it.

    Raises:
        FileNotFoundError: it is in neither; says what to type.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file, repo_type="dataset", revision=revision))
    except OSError as error:  # all of the hub's errors are: no network, no such file, offline mode
        command = f"{Path(sys.executable).parent / 'hf'} download {repository} {file} --repo-type dataset --revision {revision}"
        msg = tr(
            f"{file} of {repository} is not in the cache of this machine and cannot be downloaded. With a network, type: {command}",
            f"這台機器的快取裡沒有 {repository} 的 {file}，也無法下載。有網路時請輸入：{command}",
        )
        raise FileNotFoundError(msg) from error


def as_alpaca(raw: Instruction) -> Row:
    """Stanford Alpaca: `instruction`, `input`, `output`."""
    return {"instruction": raw.instruction, "input": raw.context, "output": raw.response}


def as_dolly(raw: Instruction) -> Row:
    """Databricks Dolly: `instruction`, `context`, `response`."""
    return {"instruction": raw.instruction, "context": raw.context, "response": raw.response}


def as_messages(raw: Instruction) -> Row:
    """What chat templates take: turns of a conversation; context goes into the user's turn."""
    content = f"{raw.instruction}\n\n{raw.context}" if raw.context else raw.instruction
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": raw.response}]}


def without_input(raw: Instruction) -> Row:
    """A wrong Alpaca record, for the control: the input is forgotten, as in a converter that reads `instruction` only."""
    return as_alpaca(Instruction(raw.instruction, "", raw.response))


FORMATS: dict[str, Callable[[Instruction], Row]] = {"alpaca": as_alpaca, "dolly": as_dolly, "messages": as_messages}


def write_rows(raws: Iterable[Instruction], convert: Callable[[Instruction], Row], path: Path) -> None:
    """JSON Lines, one record each, in the format of `convert`."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for raw in raws:
            stream.write(json.dumps(convert(raw), ensure_ascii=False) + "\n")


def differing(first: Sequence[object], second: Sequence[object]) -> int:
    """How many records are not equal, those that only one side has included."""
    return sum(a != b for a, b in zip(first, second, strict=False)) + abs(len(first) - len(second))
