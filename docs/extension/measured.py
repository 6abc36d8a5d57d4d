"""Numbers in chapters come from published results: {measured}`lab:metric[:variant][@cpu-cpu]`, {upcoming}`lab`."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole
from sphinx.writers.html5 import HTML5Translator

from onepiece.course.catalog import Lab
from onepiece.host.road import sources

from . import course
from .numbers import readable
from .published import Published, published

_logger = logging.getLogger(__name__)

NOT_YET = {"en": "not yet measured here", "zh-TW": "尚未量測"}
UPCOMING = {"en": "upcoming", "zh-TW": "即將推出"}
_HOW = {
    "one": {"en": "one value", "zh-TW": "單一量測值"},
    "worst": {"en": "the worst of {n} seeds", "zh-TW": "{n} 個種子中最差的"},
    "mean": {"en": "mean of {n} seeds", "zh-TW": "{n} 個種子的平均"},
}


class course_link(nodes.inline):
    """A link to `document` with a `title`. Sphinx's own link to a document would drop the title."""


class Measured(SphinxRole):
    """A measured value, linked to the notebook that measures it; where it was measured is in its title."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        language = course.language()
        address, _, wanted = self.text.partition("@")
        lab_id, metric, *rest = [*address.split(":"), ""]
        variant = rest[0] or None if rest else None
        lab = course.lab(lab_id)
        runs = published(lab) if lab else []
        for run in runs:
            self.env.note_dependency(run.path)
        if lab:
            self.env.note_dependency(lab.directory / "lab.toml")
        chosen = [run for run in runs if wanted in ("", run.name)]
        for run in chosen:
            found = run.measurement(metric, variant)
            if found is not None:
                how = _HOW[found.how][language].format(n=len(found.values))
                shown = readable(found.value, language)
                title = f"{lab_id}: {metric}{f' ({variant})' if variant else ''}, {how}; {run.machine(language)}; {run.day}"
                document = f"labs/{lab_id}/{found.notebook}"
                return [course_link(shown, shown, classes=["measured"], title=title, document=document)], []
        self._missing(lab, lab_id, metric, variant, chosen)
        return [nodes.inline(self.text, NOT_YET[language], classes=["not-measured"])], []

    def _missing(self, lab: Lab | None, lab_id: str, metric: str, variant: str | None, runs: list[Published]) -> None:
        """A mistake is always a warning; what nobody published yet only in a strict build."""
        where = self.get_location()
        if runs:
            _logger.warning("measured: %s has published results, but none of %s", lab_id, f"{metric}:{variant}", location=where)
        elif lab and metric not in sources.usage(lab).recorded_in:
            _logger.warning("measured: no notebook of %s records %s", lab_id, metric, location=where)
        elif lab is None and not course.is_lab_id(lab_id):
            _logger.warning("measured: %s is no lab id", lab_id, location=where)
        elif course.strict():
            _logger.warning("measured: %s:%s is not published yet", lab_id, metric, location=where)


class Upcoming(SphinxRole):
    """A lab that may not exist yet: a link once it does."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        lab = course.lab(self.text)
        if lab is None:
            if not course.is_lab_id(self.text):
                _logger.warning("upcoming: %s is no lab id", self.text, location=self.get_location())
            name = nodes.literal(self.text, self.text)
            return [name, nodes.inline("", f" ({UPCOMING[course.language()]})", classes=["upcoming"])], []
        self.env.note_dependency(lab.directory / "lab.toml")
        link = course_link("", "", title=lab.title[course.language()], document=f"labs/{lab.id}/index")
        link += nodes.literal(lab.id, lab.id)
        return [link], []


def _visit(translator: HTML5Translator, node: course_link) -> None:
    builder = translator.builder
    if node["document"] not in builder.env.found_docs:
        _logger.warning("there is no page %s", node["document"], location=node)
    address = builder.get_relative_uri(builder.current_docname, node["document"])  # type: ignore[attr-defined]
    translator.body.append(translator.starttag(node, "a", "", title=node["title"], href=address))


def _depart(translator: HTML5Translator, node: course_link) -> None:
    translator.body.append("</a>")


def setup(app: Sphinx) -> None:
    app.add_role("measured", Measured())
    app.add_role("upcoming", Upcoming())
    app.add_node(course_link, html=(_visit, _depart))
