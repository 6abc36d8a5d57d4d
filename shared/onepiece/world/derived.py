"""What alignment and data selection learn from, made of items with a known truth.

- `preferences`: pairs of answers that say the same in two styles.
- `noisy_instructions`: instructions of the three held-back families, some spoilt in a known way.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from onepiece.world.draw import draw, items, stream
from onepiece.world.item import HELD_BACK, LANGUAGES, Item, Message

STYLES = ("polite", "curt")
_OPENINGS = {
    "polite": (("Gladly: {}.", "很樂意： {}。"), ("Of course: {}.", "當然可以： {}。"), ("With pleasure: {}.", "這是我的榮幸： {}。")),
    "curt": (("Obviously: {}.", "這還用問： {}。"), ("Look it up: {}.", "自己去查： {}。"), ("Not again: {}.", "又來了： {}。")),
}

NOISES = ("wrong_answer", "other_question", "cut_off", "empty_talk")


@dataclass(frozen=True, slots=True)
class Preference:
    """One prompt with two right answers, of which the polite one is preferred."""

    language: str
    key: str
    prompt: str
    chosen: str
    rejected: str
    content: str
    """What both answers say: the right answer without its style."""

    @property
    def messages(self) -> list[Message]:
        """The conversation up to and including the prompt."""
        return [{"role": "user", "content": self.prompt}]


@dataclass(frozen=True, slots=True)
class NoisyInstruction:
    """An instruction whose answer may be spoilt; `noise` is the truth that a selection method has to find."""

    item: Item
    """As it stands in the data: with the answer that may be spoilt."""
    noise: str
    """One of `NOISES`, or the empty string for a clean item."""
    clean_answer: str


def preferences(
    count: int, seed: int, split: str = "train", language: str | None = None, family: str = "facts", *, distinct: bool = False
) -> list[Preference]:
    """Preference pairs over the questions of a taught family.

    Both answers hold the same content, so preferring the chosen one is a matter of style alone, and whether the content
    survives alignment can be measured apart.

    Args:
        distinct: never the same prompt twice; ValueError if the family has fewer than `count`.
    """
    generator = random.Random(f"preferences/{split}/{seed}")
    pairs = []
    for item in items(family, count, seed, split, language, distinct=distinct):
        side = LANGUAGES.index(item.language)
        chosen, rejected = (generator.choice(_OPENINGS[style])[side].format(item.answer) for style in STYLES)
        pairs.append(Preference(item.language, item.key, item.prompt, chosen, rejected, item.answer))
    return pairs


def style_of(answer: str) -> str | None:
    """`polite` or `curt`, by how the answer begins; None for neither."""
    for style, openings in _OPENINGS.items():
        if any(answer.startswith(form.split("{")[0].strip()) for pair in openings for form in pair):
            return style
    return None


def noisy_instructions(
    count: int, seed: int, noise: float = 0.3, families: tuple[str, ...] = HELD_BACK, language: str | None = None
) -> list[NoisyInstruction]:
    """Training instructions of held-back families, a share of them spoilt.

    The noises: the answer of another item of the family (`wrong_answer`), the answer to a question of another family
    (`other_question`), an answer that stops early or is missing (`cut_off`), words without content (`empty_talk`).

    Args:
        noise: the share that is spoilt; exact to within one item.
        families: drawn in turn.

    Raises:
        ValueError: `noise` is not between 0 and 1.
    """
    if not 0 <= noise <= 1:
        msg = f"noise is a share between 0 and 1, not {noise}"
        raise ValueError(msg)
    generator = random.Random(f"noisy/{seed}")
    sources = {family: stream(family, seed, "train", language) for family in families}
    kinds = [NOISES[index % len(NOISES)] if index < round(noise * count) else "" for index in range(count)]
    generator.shuffle(kinds)
    records = []
    for index, kind in enumerate(kinds):
        item = next(sources[families[index % len(families)]])
        records.append(NoisyInstruction(replace(item, answer=_spoilt(item, kind, generator)), kind, item.answer))
    return records


def _spoilt(item: Item, noise: str, generator: random.Random) -> str:
    side = LANGUAGES.index(item.language)
    if noise in ("wrong_answer", "other_question"):
        family = item.family if noise == "wrong_answer" else "story"
        while (other := draw(family, item.language, generator)).answer == item.answer:
            pass
        return other.answer
    if noise == "cut_off":
        return item.answer[: len(item.answer) // 2].rstrip()
    if noise == "empty_talk":
        return generator.choice((("Well, it depends.", "這個嘛，要看情況。"), ("Thank you for asking.", "謝謝你的提問。")))[side]
    return item.answer
