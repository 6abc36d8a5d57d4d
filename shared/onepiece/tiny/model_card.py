"""The model card of a shipped checkpoint: every number in it is measured or read, none is typed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onepiece.course.errors import UserError
from onepiece.course.text import Text
from onepiece.tiny import checkpoints
from onepiece.tiny.skills import ITEMS_PER_LANGUAGE, Score, table
from onepiece.world import HELD_BACK, LANGUAGES, TAUGHT, items

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TEMPLATE = """\
---
language: [en, zh]
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# {name}

A language model of {parameters:,} parameters for the labs of this course. It knows a small made-up world and nothing else:
do not use it for anything but learning. Text, tokenizer and weights are made by the code in this repository.

{purpose.en}

這是本課程實驗用的語言模型，共 {parameters:,} 個參數。它只認得一個虛構的小世界，除了學習之外請勿用於其他用途。
文字、分詞器與權重都由這個儲存庫的程式碼產生。

{purpose.zh_tw}

| | |
| --- | --- |
| architecture | `{architecture}`: {recipe[layers]} layers, hidden {recipe[hidden]}, {recipe[heads]} heads of {recipe[head_dim]}, \
MLP {recipe[intermediate]}, {biases} bias vectors, tied embeddings |
| weights | {megabytes:.2f} MB, {dtype} |
| vocabulary | {vocabulary} tokens; any text can be encoded (bytes) |
| tokens per Chinese character | {inside:.2f} in the small world, {outside:.2f} in general text |
| context | {positions} positions; trained on rows of at most {row} tokens |
| training | {last[step]:,} steps, {millions:.1f} million tokens, {last[cpu_seconds]:,.0f} CPU-seconds on {training[device]}, \
PyTorch {training[torch]}, seed {recipe[seed]} |
| last training loss | {last[loss]:.3f} nats per counted token (`learning_curve.json`) |

## What it can do

Greedy exact match on {count} held-out items of each family and language (all that there are where a family has fewer), as
plain text and in the chat template. The interval counts the four ways of asking as independent, which flatters it. Reproduce
with `nox -s skills -- {name}`.

每個任務、每種語言各取 {count} 題保留題目（不足者取全部），以貪婪解碼計算答案完全相符的比例，分別用純文字與對話範本提問。
信賴區間把四種問法當成互相獨立，因此偏樂觀。重現方式：`nox -s skills -- {name}`。

Taught in pretraining / 預訓練教過：

| family | en, plain | en, chat | zh-TW, plain | zh-TW, chat | all [95% interval] | items |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{taught}

Held back for fine-tuning / 保留給微調：

| family | en, plain | en, chat | zh-TW, plain | zh-TW, chat | all [95% interval] | items |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{held_back}

{english}
{chinese}

## How to ask

Plain text: `27 + 15 →`. Chat: `tokenizer.apply_chat_template(messages, add_generation_prompt=True)`.

A held-out item is one whose content, in any language and wording, is in no training text. A held-out fact is a known fact
asked in a phrasing that was never used for it.

保留題目的內容，不論哪種語言或寫法，都不曾出現在訓練文字中；事實類的保留題目，則是用從未配對過的問法詢問已知的事實。
"""

PURPOSES = {
    "tiny": Text(
        "This is the target: the model that the labs fine-tune, compress and serve.", "這是主要模型：各實驗微調、壓縮與部署的對象。"
    ),
    "tiny-draft": Text(
        "This is the draft of speculative decoding, small on purpose. Two layers this narrow had not learnt to find one box among "
        "several when their training ended.",
        "這是推測解碼用的草稿模型，刻意做得很小。這麼窄的兩層，到訓練結束時還沒學會從好幾個盒子裡找出指定的那一個。",
    ),
    "tiny-bias": Text(
        "This is the model with a bias in every linear layer and every norm, for methods that train or read biases.",
        "這個模型的每個線性層與正規化層都有偏置（bias），供訓練或讀取偏置的方法使用。",
    ),
}

Scores = Mapping[tuple[str, str, bool], Score]

TAUGHT_LEAST = 0.95
HELD_BACK_MOST = 0.10

GENERAL_CHINESE = (
    "台北的捷運每天載運超過兩百萬人次，尖峰時段的車廂總是擠滿通勤的上班族與學生。"
    "許多人習慣在車上閱讀、聽音樂，或是趁著短短的路程補眠，等到站時再匆匆走進早餐店買一份蛋餅和豆漿。"
)
"""A paragraph from outside the small world, to see what the vocabulary does with Chinese that it was not made for."""


def tokens_per_chinese_character(tokenizer: PreTrainedTokenizerFast, text: str) -> float:
    """Tokens that `text` needs, per Chinese character in it; other characters are left out first."""
    chinese = "".join(character for character in text if "\u4e00" <= character <= "\u9fff")
    return len(tokenizer(chinese, add_special_tokens=False)["input_ids"]) / len(chinese)


def combined(scores: Scores, family: str) -> Score:
    """The score of a family over languages and renderings."""
    return sum((score for (name, _, _), score in scores.items() if name == family), Score(0, 0))


def shortfalls(scores: Scores) -> list[str]:
    """Families that are not as they should be: taught ones below 95%, held-back ones at 10% or more."""
    return [family for family in TAUGHT if combined(scores, family).accuracy < TAUGHT_LEAST] + [
        family for family in HELD_BACK if combined(scores, family).accuracy >= HELD_BACK_MOST
    ]


def _rows(scores: Scores, families: tuple[str, ...]) -> list[str]:
    rows = []
    for family in families:
        cells = [f"{scores[family, language, chat].accuracy:.0%}" for language in LANGUAGES for chat in (False, True)]
        total = combined(scores, family)
        rows.append(f"| {family} | {' | '.join(cells)} | {total} | {total.count} |")
    return rows


def _verdict(scores: Scores) -> tuple[str, str]:
    missed = shortfalls(scores)
    if not missed:
        return (
            "Every taught family reaches 95%, and every held-back family stays below 10%.",
            "每個教過的任務都達到 95%，每個保留的任務都低於 10%。",
        )
    named = ", ".join(f"{family} ({combined(scores, family).accuracy:.1%})" for family in missed)
    return (
        f"Not as wanted (95% for taught families, below 10% for held-back ones): {named}.",
        f"未達目標（教過的任務 95%，保留的任務低於 10%）：{named}。",
    )


def card(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, scores: Scores, directory: Path) -> str:
    """The text of the card: what the model is, how it was made, what it can do.

    Args:
        scores: as `onepiece.tiny.skills.table` gives them.
        directory: where `learning_curve.json` and the weights are.
    """
    training: dict[str, Any] = json.loads((directory / "learning_curve.json").read_text(encoding="utf-8"))
    recipe, last = training["recipe"], training["curve"][-1]
    world_text = "".join(item.prompt + item.answer for family in TAUGHT for item in items(family, 50, 0, "held-out", "zh-TW"))
    english, chinese = _verdict(scores)
    return TEMPLATE.format(
        name=name,
        purpose=PURPOSES[name],
        parameters=sum(weight.numel() for weight in model.parameters()),
        architecture=type(model).__name__,
        biases=sum(label.endswith("bias") for label, _ in model.named_parameters()),
        recipe=recipe,
        megabytes=(directory / "model.safetensors").stat().st_size / 1e6,
        dtype=str(model.dtype).removeprefix("torch."),
        vocabulary=len(tokenizer),
        inside=tokens_per_chinese_character(tokenizer, world_text),
        outside=tokens_per_chinese_character(tokenizer, GENERAL_CHINESE),
        positions=model.config.max_position_embeddings,
        row=recipe["stages"][-1]["length"],
        millions=last["tokens"] / 1e6,
        last=last,
        training=training,
        count=ITEMS_PER_LANGUAGE,
        taught="\n".join(_rows(scores, TAUGHT)),
        held_back="\n".join(_rows(scores, HELD_BACK)),
        english=english,
        chinese=chinese,
    )


def main(arguments: list[str] | None = None) -> int:
    """`python -m onepiece.tiny.model_card NAME [--out DIRECTORY] [--count N]`: measure, print, write the model card."""
    parser = argparse.ArgumentParser(prog="nox -s skills --", description="Measure a tiny model and write its model card.")
    parser.add_argument("name", choices=checkpoints.NAMES)
    parser.add_argument("--count", type=int, default=ITEMS_PER_LANGUAGE, help="held-out items per family and language")
    parser.add_argument("--no-card", action="store_true", help="only print")
    options = parser.parse_args(arguments)
    try:
        model, tokenizer = checkpoints.load_tiny(options.name)
    except UserError as error:
        print(f"{error.cause}\n{error.remedy}", file=sys.stderr)
        return 2
    scores = table(model, tokenizer, options.count)
    for family in (*TAUGHT, *HELD_BACK):
        total = combined(scores, family)
        print(f"{family:10} {total} of {total.count}")
    if not options.no_card and options.count == ITEMS_PER_LANGUAGE:
        directory = checkpoints.directory(options.name)
        text = card(options.name, model, tokenizer, scores, directory)
        (directory / "README.md").write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
