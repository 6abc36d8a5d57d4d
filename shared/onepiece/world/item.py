"""One question of the small world, with its only right answer.

An item belongs to the training or to the held-out split by a hash of its *content*, which is the same in both
languages and in every rendering. So a held-out question is in no training text: not translated, not as a chat turn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

LANGUAGES = ("en", "zh-TW")
TAUGHT = ("facts", "add", "reverse", "pick", "sentiment", "lookup", "story", "chat")
HELD_BACK = ("relabel", "compose", "new_facts")
SPLITS = ("train", "held-out")
HELD_OUT_PERCENT = 10

ARROW = " →"
"""What stands between a prompt and its answer in plain text: `27 + 15 → 42`."""

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its only right answer."""

    family: str
    language: str
    key: str
    """The content without language and wording; the split is a hash of it."""
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    """Answers that could be given, the right one among them; empty where the answer is open."""
    earlier: tuple[tuple[str, str], ...] = ()
    """(role, content) of what a conversation said before the prompt."""

    @property
    def split(self) -> str:
        """`train` or `held-out`."""
        return split_of(self.key)

    @property
    def plain(self) -> str:
        """The prompt as plain text, up to where the answer (after one space) is expected."""
        return " ".join([*(content for _, content in self.earlier), self.prompt]) + ARROW

    @property
    def messages(self) -> list[Message]:
        """The conversation up to and including the prompt, in the messages format of chat templates."""
        return [{"role": role, "content": content} for role, content in (*self.earlier, ("user", self.prompt))]

    @property
    def conversation(self) -> list[Message]:
        """The conversation with its answer."""
        return [*self.messages, {"role": "assistant", "content": self.answer}]


def split_of(key: str) -> str:
    """The split of a content: `held-out` for `HELD_OUT_PERCENT` percent of all contents."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return "held-out" if int.from_bytes(digest, "big") % 100 < HELD_OUT_PERCENT else "train"
