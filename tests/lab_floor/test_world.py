"""The small world: the same everywhere, right in its answers, and without a leak between its splits."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter

import pytest

from onepiece import world
from onepiece.world import HELD_BACK, LANGUAGES, TAUGHT, Item, derived, held_back, taught, words

FAMILIES = (*TAUGHT, *HELD_BACK)


@pytest.mark.parametrize("family", [*FAMILIES, "tell"])
def test_a_seed_gives_the_same_items_and_another_seed_others(family: str) -> None:
    assert world.items(family, 50, seed=3) == world.items(family, 50, seed=3)
    assert world.items(family, 50, seed=3) != world.items(family, 50, seed=4)


def test_the_items_are_those_that_the_shipped_models_were_trained_on() -> None:
    text = "\n".join(f"{item.plain} {item.answer}" for family in (*TAUGHT, "tell") for item in world.items(family, 200, seed=0))
    # A change here means: the world is another one, and the checkpoints have to be trained again.
    assert hashlib.sha256(text.encode()).hexdigest() == "e459d76d703c7bc555eec902c151044ddb8191cdd059e58aea5e508332b033cd"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_as_many_items_as_asked_in_the_language_and_split(family: str, language: str) -> None:
    for split, count in (("train", 200), ("held-out", 40)):
        items = world.items(family, count, 0, split, language, distinct=True)
        assert len({(item.plain, item.answer) for item in items}) == count
        assert {(item.family, item.language, item.split) for item in items} == {(family, language, split)}


@pytest.mark.parametrize("family", [*FAMILIES, "tell"])
def test_the_content_of_an_item_does_not_depend_on_its_language(family: str) -> None:
    for seed in range(300):
        english, chinese = (world.draw(family, language, random.Random(seed)) for language in LANGUAGES)
        assert english.key == chinese.key
        assert english.prompt != chinese.prompt or family == "add"  # 27 + 15 is Chinese too
        assert not re.search(r"[\u4e00-\u9fff]", english.plain + english.answer)


def rendered_chat(item: Item) -> str:
    return "".join(f"<{turn['role']}>{turn['content']}<end>" for turn in item.messages)


@pytest.fixture(scope="module")
def training() -> list[Item]:
    """More of every family than the tests draw held-out items, each in both languages."""
    return [item for family in (*FAMILIES, "tell") for item in world.items(family, 4000, seed=0)]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_held_out_question_is_in_the_training_text_in_any_language_or_rendering(family: str, training: list[Item]) -> None:
    plain_text = "\n".join(["", *(item.plain for item in training)]) + "\n"
    chat_text = "".join(rendered_chat(item) for item in training)
    contents = {item.key for item in training}
    held_out = 0
    for seed in range(2000):
        both = [world.draw(family, language, random.Random(seed)) for language in LANGUAGES]
        if both[0].split == "train":
            continue
        held_out += 1
        for item in both:
            assert item.key not in contents
            assert f"\n{item.plain}\n" not in plain_text
            assert rendered_chat(item) not in chat_text
            # What a conversation said earlier is text too; only greetings of people who are not held out were said.
            assert all(f"<{role}>{content}<end>" not in chat_text for role, content in item.earlier)
    assert held_out > 100


def test_all_items_of_a_small_family_are_found() -> None:
    found = world.distinct_items("new_facts", 1000, 0, "held-out", "en")
    contents = [f"new_facts:{person}:{relation}:{phrasing}" for person, relation in held_back.NEW_FACTS for phrasing in range(4)]
    assert {item.key for item in found} == {content for content in contents if world.split_of(content) == "held-out"}


def test_a_sum_is_held_out_with_its_summands_exchanged_and_a_review_with_its_new_label() -> None:
    for item in world.items("add", 100, 0, "held-out"):
        left, right = re.findall(r"[0-9]+", item.prompt)
        assert world.split_of(f"add:{min(int(left), int(right))}+{max(int(left), int(right))}") == "held-out"
    reviews = {item.prompt.split(": ")[1] for item in world.items("sentiment", 100, 0, "held-out", "en", distinct=True)}
    trained = {item.prompt.split(": ")[1] for item in world.items("relabel", 3000, 0, "train", "en")}
    assert not reviews & trained


def test_the_answers_are_right() -> None:
    for split in world.SPLITS:
        for item in world.items("add", 200, 0, split):
            assert sum(map(int, re.findall(r"[0-9]+", item.prompt))) == int(item.answer)
        for item in world.items("reverse", 200, 0, split):
            assert re.findall(r"\b[a-z]\b", item.prompt) == item.answer.split()[::-1]
        for item in world.items("pick", 200, 0, split):
            assert item.choices[int(re.findall(r"[0-9]", item.prompt)[0]) - 1] == item.answer
        for item in world.items("lookup", 200, 0, split):
            asked = item.prompt.split()[-1].removeprefix("打開")
            assert [choice for choice in item.choices if choice.startswith(asked)] == [item.answer]
            assert item.prompt.count(item.answer) == 1
        for item in world.items("compose", 200, 0, split, "en"):
            letters, first, second = re.fullmatch(r"Reverse (.*), then letters (.) and (.)", item.prompt).groups()
            turned = letters.split()[::-1]
            assert item.answer == f"{turned[int(first) - 1]} {turned[int(second) - 1]}"


def test_a_negation_turns_the_judgement_around() -> None:
    negations = {"en": ("not", "never"), "zh-TW": ("不",)}
    for item in world.items("sentiment", 500, 0):
        side = LANGUAGES.index(item.language)
        positive = any(item.prompt.endswith(word[side]) for word in words.POSITIVE)
        negated = any(word in item.prompt for word in negations[item.language])
        assert item.answer == words.MOODS[positive != negated][side]


def test_every_fact_is_asked_in_training_though_not_in_every_phrasing() -> None:
    asked = Counter(item.key.rsplit(":", 1)[0] for item in world.items("facts", 20_000, 0))
    assert set(asked) == {f"facts:{person}:{relation}" for person in words.PEOPLE for relation in taught.RELATIONS}
    held_out = {item.key for item in world.items("facts", 2000, 0, "held-out")}
    assert len(held_out) > 80


def test_facts_are_balanced_and_nobody_is_their_own_friend() -> None:
    for table, people in ((taught.FACTS, words.PEOPLE), (held_back.NEW_FACTS, words.NEW_PEOPLE)):
        for relation in ("city", "job", "pet", "drink"):
            counts = Counter(table[person, relation] for person in people)
            # So that an answer that is always the same is right in one case of twelve, which is under 10%.
            assert set(counts.values()) == {len(people) // 12}
        assert all(words.PEOPLE[table[person, "friend"]] != person for person in people)


def test_choices_hold_the_answer_once() -> None:
    for family in FAMILIES:
        for item in world.items(family, 100, 0):
            assert not item.choices or item.choices.count(item.answer) == 1


def test_names_are_distinct_and_no_new_name_is_in_the_training_text(training: list[Item]) -> None:
    everybody = (*words.PEOPLE, *words.NEW_PEOPLE)
    assert len(set(everybody)) == len(everybody) == 84
    pretraining = " ".join(item.plain + " " + item.answer for item in training if item.family not in HELD_BACK)
    assert not set(words.NEW_PEOPLE) & set(re.findall(r"[A-Za-z]+", pretraining))


def test_the_new_labels_are_no_answer_to_a_review() -> None:
    assert not {word for pair in words.CODES for word in pair} & {word for pair in words.MOODS for word in pair}


def test_a_preference_pair_differs_in_style_alone() -> None:
    pairs = derived.preferences(200, seed=0)
    assert len(pairs) == 200
    for pair in pairs:
        assert derived.style_of(pair.chosen) == "polite"
        assert derived.style_of(pair.rejected) == "curt"
        assert pair.content in pair.chosen and pair.content in pair.rejected
        assert world.split_of(pair.key) == "train"
    assert derived.style_of("Rivon") is None
    assert all(world.split_of(pair.key) == "held-out" for pair in derived.preferences(50, 0, "held-out"))
    prompts = [pair.prompt for pair in derived.preferences(100, 0, "held-out", distinct=True)]
    assert len(set(prompts)) == 100
    with pytest.raises(ValueError, match="distinct"):
        derived.preferences(5000, 0, distinct=True)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_noise_is_as_much_as_asked_and_flagged(noise: float) -> None:
    records = derived.noisy_instructions(200, seed=0, noise=noise)
    assert sum(bool(record.noise) for record in records) == round(200 * noise)
    for record in records:
        assert (record.item.answer != record.clean_answer) == bool(record.noise), record
        assert record.item.split == "train"
    if noise:
        assert {record.noise for record in records} - {""} == set(derived.NOISES)


def test_a_share_of_noise_that_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        derived.noisy_instructions(10, seed=0, noise=30)


def test_what_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="language 'fr'"):
        world.draw("add", "fr", random.Random(0))
    with pytest.raises(ValueError, match="split 'test'"):
        world.items("add", 1, 0, "test")
    with pytest.raises(KeyError):
        world.items("cooking", 1, 0)
    with pytest.raises(ValueError, match="distinct held-out items, not 100000"):
        world.items("sentiment", 100_000, 0, "held-out", distinct=True)


def test_a_conversation_is_in_the_messages_format() -> None:
    item = world.Item("chat", "en", "key", "Who are you?", "I am Mira.", earlier=(("system", "You are Mira."),))
    assert item.conversation == [
        {"role": "system", "content": "You are Mira."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "I am Mira."},
    ]
    assert item.plain == "You are Mira. Who are you? →"
