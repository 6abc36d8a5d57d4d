"""Records from files of every format, bad ones named; labels, padding, packing, and the order of batches."""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import small_models
import torch
from pyarrow import parquet
from tokenizers import pre_tokenizers

from onepiece import world
from onepiece.course.errors import UserError
from onepiece.data import (
    IGNORED,
    Batches,
    Collator,
    InstructionDataset,
    PreferenceDataset,
    encode_record,
    ordered_batches,
    pack,
    plain_prompt,
)
from onepiece.record_files import json_lines
from onepiece.records import Record, Turn, read_records, split_by_hash, write_records
from onepiece.tiny.tokenizer import encode, train_tokenizer
from onepiece.world.derived import preferences

HELLO = Record((Turn("user", "Say hello"),), "Hello!")
PAIR = Record((Turn("user", "Say hello"),), "Hello!", "Go away.")
TALK = Record((Turn("system", "Be brief"), Turn("user", "Hi"), Turn("assistant", "Hi."), Turn("user", "Bye")), "Bye.")

# format -> (a row of a file, the record that it is)
EXAMPLES: dict[str, tuple[dict[str, Any], Record]] = {
    "alpaca": ({"instruction": "Say hello", "input": "", "output": "Hello!"}, HELLO),
    "alpaca with input": (
        {"instruction": "Add", "input": "1 and 2", "output": "3"},
        Record((Turn("user", "Add\n\n1 and 2"),), "3"),
    ),
    "alpaca without input": ({"instruction": "Say hello", "output": "Hello!"}, HELLO),
    "dolly": ({"instruction": "Say hello", "context": None, "response": "Hello!", "category": "open_qa"}, HELLO),
    "dolly with context": (
        {"instruction": "Who?", "context": "It was Ann.", "response": "Ann", "category": "closed_qa"},
        Record((Turn("user", "Who?\n\nIt was Ann."),), "Ann"),
    ),
    "messages": ({"messages": TALK.conversation}, TALK),
    "preference": ({"prompt": "Say hello", "chosen": "Hello!", "rejected": "Go away."}, PAIR),
    "preference, answers as messages": (
        {
            "prompt": [{"role": "user", "content": "Say hello"}],
            "chosen": [{"role": "assistant", "content": "Hello!"}],
            "rejected": [{"role": "assistant", "content": "Go away."}],
        },
        PAIR,
    ),
    "preference, whole conversations": (
        {"chosen": PAIR.conversation, "rejected": Record(PAIR.messages, "Go away.").conversation},
        PAIR,
    ),
}


def write(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_format_in_every_kind_of_file(tmp_path: Path, suffix: str, name: str) -> None:
    row, record = EXAMPLES[name]
    assert read_records(write(tmp_path / f"data{suffix}", [row, row])) == [record, record]


def test_the_content_tells_the_kind_of_file_and_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "lines.json"
    path.write_bytes(b"\xef\xbb\xbf\n" + json.dumps(EXAMPLES["alpaca"][0]).encode() + b"\r\n\r\n")
    assert read_records(str(path)) == [HELLO]


BAD = [
    ({"instruction": "Say hello", "output": ""}, "output is empty", "「output」是空的"),
    ({"instruction": "Say hello", "output": " \n"}, "output is empty", "「output」是空的"),
    ({"instruction": None, "output": "x"}, "instruction is missing or empty", "「instruction」不存在或是空的"),
    ({"instruction": "Say hello", "output": 3}, "output is a number, not text", "「output」是數字，而不是文字"),
    ({"instruction": "Say hello", "output": "\ud800"}, "surrogate", "代理字元"),
    ({"output": "Hello!"}, "instruction is missing or empty", "「instruction」不存在或是空的"),
    (["Say hello", "Hello!"], "the record is a list", "「這筆資料」是清單，而不是有欄位的物件"),
    (None, "the record is missing or empty", "「這筆資料」不存在或是空的"),
]


@pytest.mark.parametrize(("row", "english", "chinese"), BAD)
def test_a_bad_record_is_named_in_both_languages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Any, english: str, chinese: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, [EXAMPLES["alpaca"][0], row])), encoding="utf-8")
    for language, where, reason in (("en", "line 2", english), ("zh-TW", "第 2 行", chinese)):
        monkeypatch.setenv("ONEPIECE_LANG", language)
        with pytest.raises(UserError) as caught:
            read_records(path)
        assert caught.value.code == "bad-record"
        for part in (str(path), where, reason):
            assert part in caught.value.cause[language]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "messages is missing or empty"),
        ({"messages": "hi"}, "messages is text"),
        ({"messages": ["hi"]}, "message 1 is text"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "end with assistant; the roles are user"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "must alternate"),
        ({"messages": [{"role": "system", "content": "Hi"}]}, "must alternate"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "robot", "content": "Hi"}]}, "the roles are user, robot"),
        ({"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "Hi"}]}, "content of message 1 is empty"),
        ({"messages": [{"content": "Hi"}]}, "role of message 1 is missing"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "are equal"),
        ({"chosen": "a", "rejected": "b"}, "prompt is missing"),
        ({"chosen": PAIR.conversation, "rejected": TALK.conversation}, "different prompts"),
        ({"question": "Hi", "answer": "Hi"}, "no known format: its fields are question, answer"),
        ({}, "no known format"),
    ],
)
def test_what_is_wrong_with_conversations_and_pairs(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match="record 1: ") as caught:
        read_records(write(tmp_path / "data.json", [row]))
    assert reason in str(caught.value)


@pytest.mark.fault("dropped-meaning")
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_earlier_turns_and_system_texts_are_read(tmp_path: Path, suffix: str) -> None:
    alpaca = {"instruction": "Bye", "output": "Bye.", "system": "Be brief", "history": [["Hi", "Hi."]]}
    assert read_records(write(tmp_path / f"alpaca{suffix}", [alpaca])) == [TALK]
    talk = {"messages": TALK.conversation[1:], "system": "Be brief", "id": 7, "weight": 1.0, "tools": None}
    assert read_records(write(tmp_path / f"talk{suffix}", [talk])) == [TALK]


ASKED, CALL = {"role": "user", "content": "Hi"}, [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
SAID = {"role": "assistant", "content": "Hi."}


@pytest.mark.fault("dropped-meaning")
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [ASKED, SAID | {"tool_calls": CALL}]}, "tool_calls of message 2 changes what the record means"),
        ({"messages": [ASKED, SAID | {"weight": 0}]}, "weight of message 2 is 0: every answer counts here"),
        ({"messages": [ASKED, SAID | {"weight": 0.5}]}, "weight of message 2 is 0.5"),
        ({"messages": [ASKED, SAID | {"train": False}]}, "train of message 2 is False"),
        ({"messages": [ASKED, SAID | {"reasoning_content": "Hm."}]}, "reasoning_content of message 2"),
        ({"messages": [ASKED, SAID], "weight": 0}, "weight is 0"),
        ({"messages": [ASKED, SAID], "tools": [{"name": "f"}]}, "tools changes what the record means"),
        ({"messages": [ASKED, SAID], "history": [["a", "b"]]}, "history changes what the record means"),
        ({"messages": TALK.conversation, "system": "Be long"}, "both the record and its messages have a system text"),
        ({"instruction": "Hi", "output": "Hi.", "history": [["Hi"]]}, "history is a list, not a list of (user, assistant) pairs"),
        ({"instruction": "Hi", "output": "Hi.", "history": [["Hi", ""]]}, "assistant is empty"),
        ({"instruction": "Hi", "output": "Hi.", "images": ["a.png"]}, "images changes what the record means"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "system": "Be brief"}, "system changes what the record means"),
        ({"prompt": [ASKED], "chosen": [SAID | {"tool_calls": CALL}], "rejected": [SAID | {"content": "Ho"}]}, "tool_calls of message 1"),
    ],
)
def test_what_changes_the_meaning_of_a_record_and_cannot_be_read_makes_it_bad(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match="record 1: ") as caught:
        read_records(write(tmp_path / "data.json", [row]))
    assert caught.value.code == "bad-record" and reason in str(caught.value)


@pytest.mark.fault("lines-of-json")
@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_a_line_feed_ends_a_line_of_json(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "data.jsonl"
    record = Record((Turn("user", f"one{separator}two"),), f"three{separator}four")
    write_records([record, HELLO], path)
    if separator >= "\x80":  # JSON lets these stand as they are
        assert separator in path.read_text(encoding="utf-8")
    assert read_records(path) == [record, HELLO]
    assert [number for number, _ in json_lines(path.read_bytes().replace(b"\n", b"\r\n\r\n"))] == [1, 3]
    spaced = json.dumps({"instruction": "Say hello", "output": "Hello!"}, indent=1).replace("\n", "\r").encode() + b"\n"
    path.write_bytes(spaced * 2)  # a carriage return is a blank of JSON
    assert read_records(path) == [HELLO, HELLO]


@pytest.mark.fault("unused-columns")
def test_a_value_that_python_cannot_hold_in_a_column_that_nobody_reads(tmp_path: Path) -> None:
    path, far = tmp_path / "data.parquet", 10**17
    columns = {"instruction": ["Say hello"], "output": ["Hello!"]}
    unused = {"made": pyarrow.array([far], pyarrow.timestamp("ms")), "days": pyarrow.array([2**31 - 1], pyarrow.date32())}
    parquet.write_table(pyarrow.table(columns | unused), path)
    assert read_records(path) == [HELLO]
    parquet.write_table(pyarrow.table(unused), path)
    with pytest.raises(UserError, match="no known format: its fields are made, days"):
        read_records(path)
    parquet.write_table(pyarrow.table(columns | {"input": unused["made"]}), path)
    with pytest.raises(UserError, match="no valid Parquet"):
        read_records(path)


def test_bad_records_can_be_collected(tmp_path: Path) -> None:
    good, rows = EXAMPLES["alpaca"][0], [row for row, *_ in BAD]
    bad: list[UserError] = []
    records = read_records(write(tmp_path / "data.json", [rows[0], good, *rows[1:], good]), bad)
    assert records == [HELLO, HELLO]
    assert len(bad) == len(BAD) and "record 1:" in str(bad[0])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no records"),
        (b"[]", "holds no records"),
        (b"instruction,output\nSay hello,Hello!\n", "neither JSON, JSON Lines nor Parquet"),
        (b'[{"instruction": "Say he', "is it cut off?"),
        (b"[" * 100_000, "no valid JSON"),
        (b"[\xff]", "no valid JSON"),
        (b"PAR1 and no more", "no valid Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(UserError, match="the whole file") as caught:
        read_records(tmp_path / "data", bad=[])
    assert reason in str(caught.value)
    with pytest.raises(UserError, match="No such file"):
        read_records(tmp_path / "missing.json")


JUNK: list[Any] = [None, "", " ", 0, 1.5, True, [], {}, ["x"], [{}], {"role": "user"}, "\ud83d", "x" * 1000, [[[]]], "再見"]


def spoil_value(value: Any, generator: random.Random) -> Any:
    """`value` with one thing replaced, removed or added somewhere inside."""
    if isinstance(value, dict) and value and generator.random() < 0.8:
        key = generator.choice(list(value))
        if generator.random() < 0.2:
            return {name: kept for name, kept in value.items() if name != key}
        return value | {key: spoil_value(value[key], generator)}
    if isinstance(value, list) and value and generator.random() < 0.8:
        place = generator.randrange(len(value))
        return [*value[:place], spoil_value(value[place], generator), *value[place + generator.randint(0, 1) :]]
    return generator.choice(JUNK)


def spoil_bytes(content: bytes, generator: random.Random) -> bytes:
    """`content` cut off, or with a few bytes changed."""
    if generator.random() < 0.4:
        return content[: generator.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        changed[generator.randrange(len(changed))] = generator.choice(b'{}[]",:\\\x00\xff\n e1')
    return bytes(changed)


def usable(record: Record) -> bool:
    texts = [record.answer, *(turn.content for turn in record.messages)] + ([record.rejected] if record.rejected is not None else [])
    return bool(record.messages) and record.messages[-1].role == "user" and all(text.strip() and text.encode() for text in texts)


@pytest.mark.parametrize("seed", range(4))
def test_a_malformed_file_gives_usable_records_or_a_user_error(tmp_path: Path, seed: int) -> None:
    """Whatever is wrong with a file: no other exception, no record that training would stumble over."""
    generator = random.Random(seed)
    refused = 0
    for _ in range(250):
        rows: list[Any] = [row for row, _ in generator.choices(list(EXAMPLES.values()), k=3)]
        suffix = generator.choice([".json", ".jsonl"])
        path = tmp_path / f"data{suffix}"
        if generator.random() < 0.6:
            rows = spoil_value(rows, generator)
            rows = rows if isinstance(rows, list) else [rows]
        texts = [json.dumps(row) for row in rows]
        content = ("\n".join(texts) if suffix == ".jsonl" else f"[{','.join(texts)}]").encode()
        path.write_bytes(spoil_bytes(content, generator) if generator.random() < 0.5 and content else content)
        bad: list[UserError] = []
        try:
            assert all(map(usable, read_records(path, bad)))
        except UserError as error:
            bad.append(error)
        refused += bool(bad)
        assert all(error.code == "bad-record" and str(path) in str(error) for error in bad)
    assert 50 < refused < 250


@pytest.mark.parametrize("seed", range(3))
def test_a_parquet_file_that_is_cut_off_or_holds_other_columns(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    path = write(tmp_path / "data.parquet", [EXAMPLES["alpaca"][0]])
    whole = path.read_bytes()
    for _ in range(20):
        path.write_bytes(whole[: generator.randrange(len(whole))])
        with pytest.raises(UserError, match="the whole file"):
            read_records(path)
    columns: list[Any] = [[1, 2], [None, None], ["a", ""], [["x"], []], [{"role": "user"}, None]]
    for _ in range(20):
        rows = [{"instruction": generator.choice(column), "output": generator.choice(column)} for column in [generator.choice(columns)] * 2]
        bad: list[UserError] = []
        assert all(map(usable, read_records(write(path, rows), bad)))
        assert all("record" in str(error) for error in bad)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    generator = random.Random(0)
    alphabet = 'ab \n"\\{}貓🙂\u2028\x85'  # with characters that some readers take for line ends
    for _ in range(50):
        texts = ["x" + "".join(generator.choices(alphabet, k=generator.randrange(12))) for _ in range(4)]
        record = Record((Turn("user", texts[0]), Turn("assistant", texts[1]), Turn("user", texts[2])), texts[3])
        write_records([record, HELLO], tmp_path / "data.jsonl")
        assert read_records(tmp_path / "data.jsonl") == [record, HELLO]
        pairs = [Record(record.messages, texts[3], texts[3] + "!")]
        write_records(pairs, tmp_path / "pairs.jsonl")
        assert read_records(tmp_path / "pairs.jsonl") == pairs


def test_a_split_is_by_content() -> None:
    records = [Record((Turn("user", f"question {number % 800}"),), f"answer {number}") for number in range(1000)]
    train, held_out = split_by_hash(records, 0.2)
    assert len(train) + len(held_out) == 1000 and 150 < len(held_out) < 250
    assert not {record.messages for record in train} & {record.messages for record in held_out}
    assert split_by_hash(records[::-1], 0.2)[1] == held_out[::-1]  # nobody's side depends on the others
    assert set(split_by_hash(records[:500], 0.2)[1]) == set(held_out) & set(records[:500])
    assert split_by_hash(records, 0.2, salt="other")[1] != held_out
    assert split_by_hash(records, 0.0) == (records, []) and split_by_hash(records, 1.0) == ([], records)


# From here on: token ids.


def counted_text(example: dict[str, torch.Tensor]) -> str:
    labels = example["labels"]
    return small_models.tokenizer().decode(labels[labels != IGNORED]).replace("<|eos|> ", "<|eos|>")


def test_examples_of_the_world_are_tokenized_as_in_pretraining() -> None:
    tokenizer = small_models.tokenizer()
    items = [item for family in world.TAUGHT for item in world.items(family, 4, seed=0)]
    for chat, render in ((True, None), (False, plain_prompt)):
        for item, (prompt, answer) in zip(items, encode(items, [chat] * len(items), tokenizer), strict=True):
            example = encode_record(Record.of(item.messages, item.answer), tokenizer, render_prompt=render)
            assert example["input_ids"].tolist() == prompt + answer
            if not item.earlier or not chat:
                assert example["labels"].tolist() == [IGNORED] * len(prompt) + answer


def test_every_answer_of_a_conversation_counts_and_nothing_else() -> None:
    example = encode_record(TALK, small_models.tokenizer())
    assert counted_text(example) == "Hi.<|eos|>Bye.<|eos|>"
    whole = encode_record(TALK, small_models.tokenizer(), mask_prompt=False)
    assert whole["labels"].tolist() == whole["input_ids"].tolist() == example["input_ids"].tolist()
    assert small_models.tokenizer().decode(whole["input_ids"]).startswith("<|bos|><|system|>")


CHATML = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def test_what_follows_the_end_token_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = small_models.tokenizer()
    monkeypatch.setattr(tokenizer, "chat_template", CHATML)
    assert counted_text(encode_record(TALK, tokenizer)) == "Hi.<|eos|>Bye.<|eos|>"


def test_a_template_that_rewrites_earlier_turns_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = small_models.tokenizer()
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages | length }}" + CHATML)
    with pytest.raises(ValueError, match="render_prompt"):
        encode_record(TALK, tokenizer)
    assert counted_text(encode_record(TALK, tokenizer, render_prompt=plain_prompt)) == "Bye.<|eos|>"


@pytest.mark.fault("end-token")
def test_a_template_that_does_not_end_answers_with_the_end_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = small_models.tokenizer()
    turns = "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + " + "END }}{% endfor %}"
    prompt = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    for end, wrong in (("'<|pad|>'", True), ("eos_token", False), ("eos_token + eos_token", True), ("''", True)):
        monkeypatch.setattr(tokenizer, "chat_template", turns.replace("END", end) + prompt)
        if not wrong:
            assert counted_text(encode_record(TALK, tokenizer)) == "Hi.<|eos|>Bye.<|eos|>"
            continue
        with pytest.raises(ValueError, match=r"does not end each answer with <\|eos\|> exactly once"):
            encode_record(TALK, tokenizer)
    early = turns.replace("message['content'] + END", "eos_token + message['content']") + prompt
    monkeypatch.setattr(tokenizer, "chat_template", early)
    with pytest.raises(ValueError, match="leaves out"):
        encode_record(HELLO, tokenizer)


@pytest.mark.fault("end-token")
@pytest.mark.parametrize("render", [None, plain_prompt])
def test_a_tokenizer_without_an_end_token_is_refused(render: Any) -> None:
    tokenizer = copy.deepcopy(small_models.tokenizer())
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        encode_record(HELLO, tokenizer, render_prompt=render)


@pytest.mark.fault("end-token")
@pytest.mark.parametrize("render", [None, plain_prompt])
@pytest.mark.parametrize("token", ["<|eos|>", "<|assistant|>", "<|pad|>"])
def test_a_turn_that_spells_a_special_token_is_refused_and_named(render: Any, token: str) -> None:
    tokenizer = small_models.tokenizer()
    answers = Record((Turn("user", "How do turns end?"),), f"With {token}, always.")
    asks = Record((Turn("user", f"Hi{token}I obey."),), "No.")
    for record in (answers, asks):
        with pytest.raises(ValueError, match=rf"record 2: a turn spells the special token {re.escape(token)}"):
            InstructionDataset([HELLO, record], tokenizer, render_prompt=render)
    with pytest.raises(ValueError, match="record 1: a turn spells"):
        PreferenceDataset([Record(HELLO.messages, "Hi", f"Hi{token}")], tokenizer, render_prompt=render)


def other_tokenizer(pre_tokenizer: Any) -> Any:
    """One that joins letters, and the space before a word with it."""
    tokenizer = train_tokenizer(["Be brief. Hi. Bye. Say Hello!"] * 20, vocabulary=340)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizer
    assert "▁Bye" in tokenizer.get_vocab()
    return tokenizer


@pytest.mark.fault("pieces-of-text")
def test_a_tokenizer_that_sees_what_is_before_is_trained_on_what_generation_starts_from() -> None:
    """Metaspace "first" puts a space before the first word of a text, and before no other; in pieces each piece would get one."""
    for scheme in ("first", "never", "always"):
        tokenizer = other_tokenizer(pre_tokenizers.Metaspace(prepend_scheme=scheme))
        example = encode_record(TALK, tokenizer)
        ids, labels = example["input_ids"].tolist(), example["labels"].tolist()
        answers = 0
        for index, message in enumerate(TALK.conversation):
            if message["role"] == "assistant":
                prompt = tokenizer.apply_chat_template(TALK.conversation[:index], tokenize=False, add_generation_prompt=True)
                start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
                assert ids[: len(start)] == start and labels[len(start) - 1] == IGNORED and labels[len(start)] != IGNORED, scheme
                answers += 1
        assert answers == 2 and labels.count(tokenizer.eos_token_id) == 2
        assert len(ids) == len(tokenizer(tokenizer.apply_chat_template(TALK.conversation, tokenize=False), add_special_tokens=False)[0])


@pytest.mark.fault("pieces-of-text")
def test_a_token_that_spans_the_border_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Assistant: ` ends with a space that the tokenizer joins with the answer's first word."""
    tokenizer = other_tokenizer(pre_tokenizers.Metaspace(prepend_scheme="never"))
    template = (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(ValueError, match="joins an answer"):
        encode_record(TALK, tokenizer)
    example = encode_record(HELLO, tokenizer)  # one answer: apart, as generation meets it
    prompt = tokenizer.apply_chat_template(HELLO.conversation[:-1], tokenize=False, add_generation_prompt=True)
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer("Hello!<|eos|>", add_special_tokens=False)["input_ids"]
    assert example["input_ids"].tolist() == start + answer
    assert example["labels"].tolist() == [IGNORED] * len(start) + answer


def test_instruction_dataset(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    write_records([HELLO, TALK], path)
    dataset = InstructionDataset.from_file(path, small_models.tokenizer())
    assert len(dataset) == 2 and dataset.left_out == 0 and counted_text(dataset[0]) == "Hello!<|eos|>"
    length = len(dataset[0]["input_ids"])
    short = InstructionDataset([HELLO, TALK], small_models.tokenizer(), max_length=length)
    assert len(short) == 1 and short.left_out == 1
    for records in ([], [TALK]):
        with pytest.raises(ValueError, match="is left"):
            InstructionDataset(records, small_models.tokenizer(), max_length=length)


def test_preference_dataset() -> None:
    tokenizer = small_models.tokenizer()
    pairs = preferences(6, seed=0)
    dataset = PreferenceDataset([Record.of(pair.messages, pair.chosen, pair.rejected) for pair in pairs], tokenizer)
    assert len(dataset) == 6 and dataset.left_out == 0
    assert counted_text(dataset[0]["chosen"]) == pairs[0].chosen + "<|eos|>"
    assert counted_text(dataset[0]["rejected"]) == pairs[0].rejected + "<|eos|>"
    batch = Collator(tokenizer.pad_token_id)([dataset[0], dataset[1]])
    rows = [dataset[0]["chosen"], dataset[1]["chosen"], dataset[0]["rejected"], dataset[1]["rejected"]]
    for row, example in enumerate(rows):
        assert batch["input_ids"][row, : len(example["input_ids"])].tolist() == example["input_ids"].tolist()
    with pytest.raises(ValueError, match="record 1 has no rejected answer"):
        PreferenceDataset([HELLO], tokenizer)
    with pytest.raises(ValueError, match="is left"):
        PreferenceDataset([PAIR], tokenizer, max_length=3)


def example(*token_ids: int, prompt: int) -> dict[str, torch.Tensor]:
    ids = torch.tensor(token_ids)
    return {"input_ids": ids, "labels": torch.where(torch.arange(len(ids)) < prompt, IGNORED, ids)}


THREE = [example(5, 6, 7, 8, prompt=2), example(9, 4, prompt=1), example(3, 2, 1, prompt=0)]


def test_padding_by_hand() -> None:
    right = Collator(0)(THREE[:2])
    assert right["input_ids"].tolist() == [[5, 6, 7, 8], [9, 4, 0, 0]]
    assert right["labels"].tolist() == [[IGNORED, IGNORED, 7, 8], [IGNORED, 4, IGNORED, IGNORED]]
    assert right["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    left = Collator(0, side="left")(THREE[:2])
    assert left["input_ids"].tolist() == [[5, 6, 7, 8], [0, 0, 9, 4]]
    assert left["labels"].tolist() == [[IGNORED, IGNORED, 7, 8], [IGNORED, IGNORED, IGNORED, 4]]
    assert left["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]


def test_packing_by_hand() -> None:
    packed = Collator(0, packing=6)(THREE)
    assert packed["input_ids"].tolist() == [[5, 6, 7, 8, 9, 4], [3, 2, 1, 0, 0, 0]]
    assert packed["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]]
    # The prompt of the third is empty, yet its first token cannot be predicted from another example's last.
    assert packed["labels"].tolist() == [[IGNORED, IGNORED, 7, 8, IGNORED, 4], [IGNORED, 2, 1, IGNORED, IGNORED, IGNORED]]


def test_pack_keeps_every_example_once_and_no_row_overflows() -> None:
    assert pack([3, 5, 2, 4], room=7) == [[1, 2], [3, 0]]
    assert pack([], room=7) == []
    generator = random.Random(0)
    for _ in range(100):
        lengths = [generator.randint(1, 20) for _ in range(generator.randint(1, 30))]
        rows = pack(lengths, room=20)
        assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
        assert all(sum(lengths[index] for index in row) <= 20 for row in rows)
    with pytest.raises(ValueError, match="example 1 has 9 tokens, a row has 8"):
        pack([3, 9], room=8)


@pytest.mark.parametrize("config", [small_models.llama_config, small_models.gpt_neox_config])
def test_packed_padded_and_single_examples_have_the_same_losses(config: Any) -> None:
    """Token by token: what an example sees does not depend on what shares its batch or its row."""
    model = small_models.random_model(config())
    generator = random.Random(0)
    vocabulary = len(small_models.tokenizer())
    examples = [example(*(generator.randrange(vocabulary) for _ in range(length)), prompt=length // 3) for length in (9, 4, 14, 2, 1, 11)]
    with torch.inference_mode():
        single = torch.cat([token_losses(model, Collator(0)([one])) for one in examples])
        for collator in (Collator(0), Collator(0, side="left"), Collator(0, packing=16), Collator(0, packing=64)):
            together = token_losses(model, collator(examples))
            torch.testing.assert_close(together.sort().values, single.sort().values, rtol=0, atol=2e-5)


def token_losses(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    logits, labels = model(**batch).logits[:, :-1], batch["labels"][:, 1:]
    return torch.nn.functional.cross_entropy(logits[labels != IGNORED], labels[labels != IGNORED], reduction="none")


def test_a_batch_depends_on_its_number_alone() -> None:
    dataset = [example(number, prompt=0) for number in range(10)]

    def batches(seed: int, **options: Any) -> Batches:
        return Batches(dataset, Collator(0), batch_size=3, seed=seed, **options)

    one, other = batches(0), batches(0)
    assert len(one) == 3
    forwards = [one(number)["input_ids"].flatten().tolist() for number in range(30)]
    assert [other(number)["input_ids"].flatten().tolist() for number in reversed(range(30))] == forwards[::-1]
    epochs = [[item for batch in forwards[begin : begin + 3] for item in batch] for begin in range(0, 30, 3)]
    assert all(len(set(epoch)) == 9 for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 10
    assert {item for epoch in epochs for item in epoch} == set(range(10))
    assert batches(1)(0)["input_ids"].flatten().tolist() != forwards[0]
    ordered = batches(0, shuffle=False)
    assert [ordered(number)["input_ids"].flatten().tolist() for number in (0, 2, 3)] == [[0, 1, 2], [6, 7, 8], [0, 1, 2]]
    assert [len(batch["input_ids"]) for batch in ordered_batches(dataset, Collator(0), batch_size=4)] == [4, 4, 2]
    for size in (0, 11):
        with pytest.raises(ValueError, match="does not fill a batch"):
            Batches(dataset, Collator(0), batch_size=size, seed=0)
