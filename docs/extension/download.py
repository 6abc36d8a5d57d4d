"""A lab as a zip: the learner's copy, made by the generator of `nox -s start`."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path

from onepiece.course.catalog import Lab
from onepiece.host.road.workspace import make_workspace

_EPOCH = (2026, 1, 1, 0, 0, 0)  # equal sources give equal bytes


def lab_zip(lab: Lab, language: str) -> bytes:
    """`<lab>/` with notebooks in `language`, starter modules, README and a file for guesses."""
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / lab.id
        make_workspace(lab, copy, language)
        context = copy / ".run" / "context.json"
        said = json.loads(context.read_text(encoding="utf-8"))
        context.write_text(json.dumps(said | {"predictions": {}}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(path for path in copy.rglob("*") if path.is_file()):
                member = zipfile.ZipInfo(f"{lab.id}/{path.relative_to(copy).as_posix()}", _EPOCH)
                member.compress_type = zipfile.ZIP_DEFLATED
                member.external_attr = 0o644 << 16
                archive.writestr(member, path.read_bytes())
    return packed.getvalue()
