"""Parts of pages that are made from data: a fence such as ```{course-map}``` in a page is replaced before Sphinx reads it."""

from __future__ import annotations

import re
from collections.abc import Callable

from . import course_map, family, family_plot, faults, glossary, troubleshooting

# Name -> a function of (argument, language) that gives Markdown.
PARTS: dict[str, Callable[[str, str], str]] = {
    "chapter-map": course_map.chapter_map,
    "course-map": course_map.course_map,
    "error-list": troubleshooting.error_list,
    "family-figure": family_plot.figure,
    "family-protocol": family.protocol,
    "family-table": family.table,
    "family-tasks": family.tasks,
    "fault-table": faults.fault_table,
    "glossary-terms": glossary.terms,
    "learning-paths": course_map.learning_paths,
    "repository": course_map.repository,
}
# A longer fence shows what is inside it as it is.
_QUOTED = r"(?P<quote>`{4,}).*\n(?:.*\n)*?(?P=quote)"
_PART = rf"```\{{(?P<name>{'|'.join(PARTS)})\}}(?P<argument>[^\n]*)\n(?P<body>(?:.*\n)*?)```"
_FENCE = re.compile(rf"^(?:{_QUOTED}|{_PART})$", re.MULTILINE)


def expand(page: str, language: str) -> str:
    """The page with every such fence replaced. Its argument and body are the part's argument."""

    def replaced(found: re.Match[str]) -> str:
        if found["name"] is None:
            return found[0]
        return PARTS[found["name"]](f"{found['argument']} {found['body']}".strip(), language)

    return _FENCE.sub(replaced, page)
