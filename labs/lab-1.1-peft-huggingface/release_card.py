"""The model card of what is shipped: written from a run's numbers, so that it cannot say anything else."""

from __future__ import annotations

from dataclasses import dataclass

import yaml


@dataclass(frozen=True, slots=True)
class Release:
    """What a card says; every number comes from a run."""

    base: str
    revision: str
    """The hub's commit, or empty for a model that the course ships."""
    task: str
    settings: dict[str, object]
    scores: dict[str, str]
    """What was measured -> value with its interval."""
    forgotten: dict[str, str]
    """Skill -> before and after."""
    versions: dict[str, str]
    files: dict[str, int]
    """File -> bytes."""


def card(release: Release) -> str:
    """The text of `README.md`: metadata that hubs read, then what it does, how well, what it lost, and what made it."""
    metadata = {"base_model": release.base, "library_name": "peft", "tags": ["lora"]}
    base = f"`{release.base}`" + (f" at commit `{release.revision}`" if release.revision else "")
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(metadata).strip()}\n---\n",
            f"# LoRA for `{release.task}`\n",
            f"An adapter for {base}. It works with this base only.\n",
            *_table("How well it does", ("measure", "value"), release.scores),
            *_table("What it forgot", ("skill", "before -> after"), release.forgotten),
            *_table("Training", ("setting", "value"), release.settings),
            *_table("Files", ("file", "bytes"), {name: f"{size:,}" for name, size in release.files.items()}),
            *_table("Versions", ("package", "version"), release.versions),
        ]
    )


def _table(title: str, columns: tuple[str, str], rows: dict[str, object] | dict[str, str]) -> list[str]:
    lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "| --- | --- |"]
    return [*lines, *(f"| {name} | {value} |" for name, value in rows.items()), ""]
