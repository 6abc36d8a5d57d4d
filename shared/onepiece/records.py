"""Instruction and preference data: reads the usual files, converts every record into one type, names the bad one.

    records = read_records("alpaca.json")                 # a list of `Record`
    train, held_out = split_by_hash(records, 0.1)

A file is JSON (one array), JSON Lines or Parquet, told by its content. Its first good record decides the format of all:

- Alpaca: `instruction`, `output`, optional `input` (https://github.com/tatsu-lab/stanford_alpaca); `system` and `history`, a list of
  earlier (user, assistant) pairs, as LLaMA-Factory writes them
- Dolly: `instruction`, `response`, optional `context` (https://huggingface.co/datasets/databricks/databricks-dolly-15k)
- messages (what ChatML and other chat templates take): `messages`, a list of `role` and `content`; optional `system`
- preference: `chosen` and `rejected`, with `prompt`; each is text or a list of messages. Without `prompt` both are whole
  conversations that differ in the last answer.

A field that changes what a record means, and that a `Record` cannot hold, makes it a bad one: tool calls, a weight of 0, images.
Other fields (`id`, `category`, `source`) are ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from onepiece.course.errors import UserError
from onepiece.course.text import tr
from onepiece.record_files import BadRecord, rows_of, unreadable


class Turn(NamedTuple):
    """What one side of a conversation says."""

    role: str
    """`system` (only at the beginning), `user` or `assistant`."""
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """A conversation up to where the model speaks, and what it should say."""

    messages: tuple[Turn, ...]
    """The last one is the user's."""
    answer: str
    rejected: str | None = None
    """The worse of two answers, in preference data."""

    @classmethod
    def of(cls, messages: Iterable[Mapping[str, str]], answer: str, rejected: str | None = None) -> Record:
        """From messages as chat templates take them; `Record.of(item.messages, item.answer)` for an item of the world."""
        return cls(tuple(Turn(message["role"], message["content"]) for message in messages), answer, rejected)

    @property
    def conversation(self) -> list[dict[str, str]]:
        """Messages and answer, as chat templates take them."""
        return [turn._asdict() for turn in (*self.messages, Turn("assistant", self.answer))]


def read_records(path: Path | str, bad: list[UserError] | None = None) -> list[Record]:
    """The records of a file, in order.

    Args:
        bad: bad records are left out and their errors appended here, which is how a lab about dirty data counts them.
            None: the first one is raised.

    Raises:
        UserError: "bad-record", with file, record and reason. Whatever `bad` is, if the file as a whole cannot be read: it
            is missing, empty, or a JSON array or Parquet file that is cut off.
    """
    path = Path(path)
    convert: Callable[[Mapping[str, Any]], Record] | None = None
    records: list[Record] = []
    for where, row in rows_of(path, _FIELDS):
        try:
            if isinstance(row, BadRecord):
                raise row
            if not isinstance(row, Mapping):
                raise _wrong(tr("the record", "這筆資料"), row, tr("an object with fields", "有欄位的物件"))
            convert = convert or _converter(row)
            records.append(convert(row))
        except BadRecord as error:
            mistake = UserError("bad-record", path=path, where=where, reason=error)
            if bad is None:
                raise mistake from None
            bad.append(mistake)
    if not records and not bad:
        raise unreadable(path, tr("it holds no records", "裡面沒有任何資料"))
    return records


def write_records(records: Iterable[Record], path: Path | str) -> None:
    """Write JSON Lines that `read_records` reads back as equal records: messages, or preferences where there is a rejected answer."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as stream:
        for record in records:
            prompt = record.conversation[:-1]
            row: dict[str, Any] = {"messages": record.conversation}
            if record.rejected is not None:
                row = {"prompt": prompt, "chosen": record.answer, "rejected": record.rejected}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def split_by_hash(records: Sequence[Record], held_out: float, salt: str = "") -> tuple[list[Record], list[Record]]:
    """(training, held-out) records, in their order.

    A hash of the messages decides: the same on every machine, unmoved by records that come or go, and never the same
    prompt on both sides, whatever the answers.

    Args:
        held_out: the share to expect in the second list, 0 to 1.
        salt: another text gives another split.
    """
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        content = json.dumps([salt, *record.messages], ensure_ascii=False)
        digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
        sides[int.from_bytes(digest, "big") < held_out * 2**64].append(record)
    return sides


def _converter(row: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Record]:
    """The conversion of the format that `row` is in."""
    for fields, convert in _FORMATS:
        if fields <= set(row):
            return convert
    known = "; ".join(", ".join(sorted(fields)) for fields, _ in _FORMATS)
    found = ", ".join(map(str, row)) or "-"
    raise BadRecord(tr(f"no known format: its fields are {found}, expected are {known}", f"不是已知的格式：欄位有 {found}，應該有 {known}"))


def _alpaca(row: Mapping[str, Any]) -> Record:
    return _single(row, "input", "output")


def _dolly(row: Mapping[str, Any]) -> Record:
    return _single(row, "context", "response")


def _single(row: Mapping[str, Any], context_field: str, answer_field: str) -> Record:
    _refuse_meaningful(row, ())
    instruction, answer = _text(row, "instruction"), _text(row, answer_field)
    context = _text(row, context_field) if row.get(context_field) else ""
    asked = Turn("user", f"{instruction}\n\n{context}" if context else instruction)
    return Record((*_system(row), *_history(row), asked), answer)


def _system(row: Mapping[str, Any]) -> list[Turn]:
    return [Turn("system", _text(row, "system"))] if row.get("system") else []


def _history(row: Mapping[str, Any]) -> list[Turn]:
    """Earlier turns, as pairs of what the user and the assistant said."""
    turns: list[Turn] = []
    for pair in row.get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise _wrong("history", pair, tr("a list of (user, assistant) pairs", "由（user, assistant）配對組成的清單"))
        said = dict(zip(("user", "assistant"), pair, strict=True))
        turns += [Turn(role, _text(said, role)) for role in said]
    return turns


def _messages(row: Mapping[str, Any]) -> Record:
    _refuse_meaningful(row, ("history",))
    *turns, last = _turns(row, "messages", last="assistant")
    system = _system(row)
    if system and turns[0].role == "system":
        raise BadRecord(tr("both the record and its messages have a system text", "資料本身與訊息裡都有 system 文字"))
    return Record((*system, *turns), last.content)


def _refuse_meaningful(row: Mapping[str, Any], also: Sequence[str], message: int | None = None) -> None:
    """A record that says something which a `Record` cannot hold would be trained as another one."""
    for field in (*_MEANINGFUL, *also):
        label = field if message is None else tr(f"{field} of message {message}", f"第 {message} 則訊息的 {field}")
        if row.get(field):
            raise BadRecord(
                tr(f"{label} changes what the record means, and is not read", f"「{label}」會改變這筆資料的意義，而這裡不讀取它")
            )
    for field in ("weight", "train"):
        if row.get(field) not in (None, 1):  # 1 == True
            label = field if message is None else tr(f"{field} of message {message}", f"第 {message} 則訊息的 {field}")
            raise BadRecord(tr(f"{label} is {row[field]}: every answer counts here", f"「{label}」是 {row[field]}，而這裡每個回答都算數"))


def _preference(row: Mapping[str, Any]) -> Record:
    _refuse_meaningful(row, ("history", "system"))
    chosen_prompt, chosen = _answer(row, "chosen")
    rejected_prompt, rejected = _answer(row, "rejected")
    if chosen_prompt != rejected_prompt:
        raise BadRecord(tr("chosen and rejected answer different prompts", "chosen 與 rejected 回答的不是同一個提示"))
    if chosen == rejected:
        raise BadRecord(tr("chosen and rejected are equal", "chosen 與 rejected 相同"))
    if chosen_prompt:
        return Record(chosen_prompt, chosen, rejected)
    if isinstance(row.get("prompt"), list):
        return Record(tuple(_turns(row, "prompt", last="user")), chosen, rejected)
    return Record((Turn("user", _text(row, "prompt")),), chosen, rejected)


def _answer(row: Mapping[str, Any], field: str) -> tuple[tuple[Turn, ...], str]:
    """(prompt, answer); the prompt is empty unless the field is a whole conversation."""
    if not isinstance(row.get(field), list):
        return (), _text(row, field)
    *turns, last = _turns(row, field, last="assistant", whole=len(row[field]) > 1)
    return tuple(turns), last.content


def _turns(row: Mapping[str, Any], field: str, *, last: str, whole: bool = True) -> list[Turn]:
    """Messages: an optional system message, then user and assistant in turn, up to `last`."""
    value = row.get(field)
    if not isinstance(value, list) or not value:
        raise _wrong(field, value or None, tr("a list of messages", "訊息的清單"))
    turns = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping):
            wanted = tr("an object with role and content", "有 role 與 content 的物件")
            raise _wrong(tr(f"message {number}", f"第 {number} 則訊息"), message, wanted)
        _refuse_meaningful(message, (), number)
        turns.append(Turn(_text(message, "role", number), _text(message, "content", number)))
    roles = [turn.role for turn in turns]
    spoken = roles[1:] if roles[0] == "system" else roles
    expected = [("user", "assistant")[index % 2] for index in range(len(spoken))] if whole else [last]
    if not spoken or spoken != expected or spoken[-1] != last:
        order = ", ".join(roles)
        raise BadRecord(
            tr(
                f"{field} must alternate user and assistant (after an optional system message) and end with {last}; the roles are {order}",
                f"{field} 必須由 user 與 assistant 輪流（最前面可有一則 system），並以 {last} 結束；目前的角色是 {order}",
            )
        )
    return turns


def _text(row: Mapping[str, Any], field: str, message: int | None = None) -> str:
    """A field that must be text and must not be empty."""
    label = field if message is None else tr(f"{field} of message {message}", f"第 {message} 則訊息的 {field}")
    value = row.get(field)
    if not isinstance(value, str):
        raise _wrong(label, value, tr("text", "文字"))
    if not value.strip():
        raise BadRecord(tr(f"{label} is empty", f"「{label}」是空的"))
    if any("\ud800" <= character <= "\udfff" for character in value):  # half a pair: JSON can spell it, UTF-8 cannot
        raise BadRecord(tr(f"{label} holds half a surrogate pair", f"「{label}」含有不成對的代理字元"))
    return value


def _wrong(label: str, value: object, wanted: str) -> BadRecord:
    """What is there instead of what is wanted, in the words of JSON."""
    if value is None:
        return BadRecord(tr(f"{label} is missing or empty", f"「{label}」不存在或是空的"))
    names = {
        dict: tr("an object", "物件"), list: tr("a list", "清單"), str: tr("text", "文字"), bool: tr("a truth value", "布林值"),
        int: tr("a number", "數字"), float: tr("a number", "數字"),
    }  # fmt: skip
    found = names.get(type(value), type(value).__name__)
    return BadRecord(tr(f"{label} is {found}, not {wanted}", f"「{label}」是{found}，而不是{wanted}"))


_MEANINGFUL = (
    *("tool_calls", "function_call", "tool_call_id", "tools", "functions"),
    *("images", "videos", "audios", "audio"),
    *("reasoning_content", "reasoning", "thinking"),
)
_FORMATS = (
    ({"chosen", "rejected"}, _preference),
    ({"messages"}, _messages),
    ({"instruction", "output"}, _alpaca),
    ({"instruction", "response"}, _dolly),
)
_FIELDS = frozenset(
    {"input", "context", "prompt", "history", "system", "weight", "train", *_MEANINGFUL}.union(*(fields for fields, _ in _FORMATS))
)
