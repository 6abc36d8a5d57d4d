"""The families that pretraining teaches, and the free text (profiles, stories) that it reads beside them.

Each function draws one `Item` from a `random.Random`; `side` is 0 for English and 1 for Traditional Chinese. In Chinese
text a name or a letter always has a space before it, so that it is the same token as in English.
"""

from __future__ import annotations

import random

from onepiece.world.item import LANGUAGES, Item
from onepiece.world.words import (
    CITIES,
    CLASSIFIERS,
    COLOURS,
    DEGREES,
    DRINKS,
    FIRST_NEGATION,
    JOBS,
    LETTERS,
    MOODS,
    NEGATIVE,
    OBJECTS,
    PEOPLE,
    PETS,
    PLACES,
    POSITIVE,
    SUBJECTS,
    WEATHER,
    Word,
)

RELATIONS = ("city", "job", "pet", "drink", "friend")
VALUES: dict[str, tuple[Word, ...]] = {
    "city": CITIES,
    "job": JOBS,
    "pet": PETS,
    "drink": DRINKS,
    "friend": tuple((name, name) for name in PEOPLE),
}
QUESTIONS: dict[str, tuple[Word, ...]] = {
    "city": (
        ("Where does {} live?", "{} 住在哪裡？"),
        ("Which city is home to {}?", "{} 的家在哪座城市？"),
        ("{} lives where?", "哪座城市是 {} 的家？"),
        ("Home of {}?", "{} 的住處？"),
    ),
    "job": (
        ("What is the job of {}?", "{} 的工作是什麼？"),
        ("What does {} do for work?", "{} 做什麼工作？"),
        ("{} works as what?", "{} 是做哪一行的？"),
        ("Job of {}?", "{} 的職業？"),
    ),
    "pet": (
        ("What pet does {} have?", "{} 養什麼寵物？"),
        ("Which animal lives with {}?", "{} 家裡有什麼動物？"),
        ("{} has which pet?", "陪著 {} 的是什麼動物？"),
        ("Pet of {}?", "{} 的寵物？"),
    ),
    "drink": (
        ("What does {} like to drink?", "{} 愛喝什麼？"),
        ("Which drink does {} order?", "{} 都點什麼飲料？"),
        ("{} drinks what?", "{} 最常喝的是什麼？"),
        ("Drink of {}?", "{} 的飲料？"),
    ),
    "friend": (
        ("Who is the best friend of {}?", "{} 最好的朋友是誰？"),
        ("Which friend does {} trust most?", "{} 最信任誰？"),
        ("{} has which friend?", "誰是 {} 的好友？"),
        ("Friend of {}?", "{} 的朋友？"),
    ),
}
STATEMENTS: dict[str, Word] = {
    "city": ("{} lives in {}.", "{} 住在{}。"),
    "job": ("{} is a {}.", "{} 是{}。"),
    "pet": ("{} has a {}.", "{} 養了{}。"),
    "drink": ("{} drinks {}.", "{} 愛喝{}。"),
    "friend": ("{} trusts {}.", "{} 信任 {}。"),
}


def facts_about(people: tuple[str, ...], seed: int) -> dict[tuple[str, str], int]:
    """(person, relation) -> index of the value; every value of a relation is equally common (to within one)."""
    generator = random.Random(f"facts/{seed}")
    table: dict[tuple[str, str], int] = {}
    for relation in RELATIONS:
        indices = list(range(len(VALUES[relation]))) * (-(-len(people) // len(VALUES[relation])))
        generator.shuffle(indices)
        for person, index in zip(people, indices, strict=False):
            # Nobody is their own best friend.
            table[person, relation] = (index + 1) % len(PEOPLE) if VALUES[relation][index][0] == person else index
    return table


FACTS = facts_about(PEOPLE, seed=1)


def question(family: str, side: int, person: str, relation: str, phrasing: int, table: dict[tuple[str, str], int]) -> Item:
    """The item that asks for one fact in one phrasing. Its content includes the phrasing: the fact itself is taught."""
    values = VALUES[relation]
    return Item(
        family,
        LANGUAGES[side],
        f"{family}:{person}:{relation}:{phrasing}",
        QUESTIONS[relation][phrasing][side].format(person),
        values[table[person, relation]][side],
        choices=tuple(value[side] for value in values),
    )


def _facts(side: int, generator: random.Random) -> Item:
    person, relation = generator.choice(PEOPLE), generator.choice(RELATIONS)
    return question("facts", side, person, relation, generator.randrange(4), FACTS)


def _add(side: int, generator: random.Random) -> Item:
    left, right = generator.randrange(50), generator.randrange(50)
    wording = generator.choice((("{} + {}", "{} + {}"), ("What is {} plus {}?", "{}加{}是多少？")))[side]
    key = f"add:{min(left, right)}+{max(left, right)}"  # 15 + 27 would give 27 + 15 away
    return Item("add", LANGUAGES[side], key, wording.format(left, right), str(left + right))


def _reverse(side: int, generator: random.Random, length: int | None = None) -> Item:
    letters = generator.sample(LETTERS, length or generator.randint(3, 6))
    prompt = ("Reverse {}", "反轉 {}")[side].format(" ".join(letters))
    return Item("reverse", LANGUAGES[side], "reverse:" + "".join(letters), prompt, " ".join(reversed(letters)))


def _pick(side: int, generator: random.Random) -> Item:
    letters, position = generator.sample(LETTERS, 5), generator.randint(1, 5)
    prompt = ("Letter {} of {}", "第{}個字母： {}")[side].format(position, " ".join(letters))
    return Item("pick", LANGUAGES[side], f"pick:{''.join(letters)}:{position}", prompt, letters[position - 1], choices=tuple(letters))


def review(side: int, generator: random.Random) -> tuple[str, str, int]:
    """(content, sentence, 1 if it is positive): a short review, possibly negated."""
    subject, degree, adjective = generator.randrange(len(SUBJECTS)), generator.randrange(len(DEGREES)), generator.randrange(20)
    positive = adjective < len(POSITIVE)
    word = (POSITIVE + NEGATIVE)[adjective][side]
    sentence = ("the {} {} {}", "{}{}{}")[side].format(SUBJECTS[subject][side], DEGREES[degree][side], word)
    return f"review:{subject}:{degree}:{adjective}", sentence, int(positive != (degree >= FIRST_NEGATION))


def _sentiment(side: int, generator: random.Random) -> Item:
    key, sentence, mood = review(side, generator)
    prompt = ("Review: ", "評論：")[side] + sentence
    return Item("sentiment", LANGUAGES[side], key, prompt, MOODS[mood][side], choices=tuple(word[side] for word in MOODS))


def _lookup(side: int, generator: random.Random, pairs: int | None = None) -> Item:
    count = pairs or generator.randint(2, 5)
    keys, values = generator.sample(LETTERS, count), generator.sample(COLOURS, count)
    boxes = [key + (" ", "")[side] + value[side] for key, value in zip(keys, values, strict=True)]
    asked = generator.randrange(count)
    prompt = ("Boxes: {}. Open {}", "盒子： {}。打開 {}")[side].format((", ", "、 ")[side].join(boxes), keys[asked])
    content = ",".join(f"{key}{COLOURS.index(value)}" for key, value in zip(keys, values, strict=True))
    return Item("lookup", LANGUAGES[side], f"lookup:{content}:{keys[asked]}", prompt, boxes[asked], choices=tuple(boxes))


def _scene(side: int, generator: random.Random) -> tuple[str, str, tuple[str, str, str]]:
    """(content, story, (who, what, where))"""
    person, thing, place = generator.choice(PEOPLE), generator.randrange(len(OBJECTS)), generator.randrange(len(PLACES))
    weather = generator.choice(WEATHER)[side]
    thing_word, place_word = OBJECTS[thing][side], PLACES[place][side]
    text = (
        f"{person} went to the {place_word}. {weather} {person} found a {thing_word}.",
        f"{person} 去了{place_word}。{weather} {person} 撿到一{CLASSIFIERS[thing]}{thing_word}。",
    )[side]
    return f"story:{person}:{thing}:{place}", text, (person, thing_word, place_word)


def _story(side: int, generator: random.Random) -> Item:
    key, text, answers = _scene(side, generator)
    asked = generator.randrange(3)
    ask = (("Who was it?", "是誰？"), ("What was found?", "撿到什麼？"), ("Where was it?", "在哪裡？"))[asked][side]
    choices = (PEOPLE, *(tuple(word[side] for word in words) for words in (OBJECTS, PLACES)))[asked]
    return Item("story", LANGUAGES[side], key, f"{text} {ask}", answers[asked], choices=choices)


def _chat(side: int, generator: random.Random) -> Item:
    kind, person, thing = generator.randrange(4), generator.choice(PEOPLE), generator.choice(OBJECTS)[side]
    key = f"chat:{person}"
    hello = (f"Hello, I am {person}.", f"你好，我是 {person}。")[side]
    welcome = (f"Hello {person}, nice to meet you.", f"你好 {person}，很高興認識你。")[side]
    earlier: tuple[tuple[str, str], ...] = ()
    if kind == 0:
        prompt, answer = hello, welcome
    elif kind == 1:
        earlier = (("user", hello), ("assistant", welcome))
        prompt, answer = ("What is my name?", "我叫什麼名字？")[side], person
    elif kind == 2:
        earlier = (("system", (f"You are {person}.", f"你是 {person}。")[side]),)
        prompt, answer = (("Who are you?", f"I am {person}."), ("你是誰？", f"我是 {person}。"))[side]
    else:
        key = f"thanks:{person}:{next(word[0] for word in OBJECTS if word[side] == thing)}"
        prompt = (f"This is {person}. Thank you for the {thing}.", f"我是 {person}，謝謝你的{thing}。")[side]
        answer = (f"You are welcome, {person}. Enjoy the {thing}.", f"不客氣， {person}。希望你喜歡{thing}。")[side]
    return Item("chat", LANGUAGES[side], key, prompt, answer, earlier=earlier)


def tell(side: int, generator: random.Random) -> Item:
    """Free text on request: the profile of a person, or a story. Not a family: many answers are right."""
    if generator.random() < 0.5:
        person = generator.choice(PEOPLE)
        sentences = [STATEMENTS[relation][side].format(person, VALUES[relation][FACTS[person, relation]][side]) for relation in RELATIONS]
        prompt = (f"Tell me about {person}.", f"介紹一下 {person}。")[side]
        return Item("tell", LANGUAGES[side], f"profile:{person}", prompt, " ".join(sentences))
    key, text, (person, _, _) = _scene(side, generator)
    return Item("tell", LANGUAGES[side], key, (f"Tell a story about {person}.", f"說個 {person} 的故事。")[side], text)


FAMILIES = {
    "facts": _facts,
    "add": _add,
    "reverse": _reverse,
    "pick": _pick,
    "sentiment": _sentiment,
    "lookup": _lookup,
    "story": _story,
    "chat": _chat,
    "tell": tell,
}
