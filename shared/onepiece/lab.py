"""The lab API: what a notebook says to the run that it is part of.

    from onepiece import lab

    lab.settings.seeds                       # frozen: the profile's settings, device, dtype
    lab.record("tiled_error", error, seed=0) # a measured value; gates and reports read it
    lab.predict("tiled_error")               # the learner's guess, or None
    lab.artifact("losses.json")              # a file handed from notebook to notebook
    lab.figure("memory", figure, Text(...))  # shown, saved, and part of the report
    lab.say("...", "...")                    # prose made from results, in the reader's language
    for step in lab.progress(range(100), loss=lambda: loss): ...

A notebook opened by hand (JupyterLab, VS Code) in the learner's copy works the same way: its run is then
the directory `.run/` beside it.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from onepiece.course.errors import UserError
from onepiece.course.json_numbers import encode_number
from onepiece.course.text import Text, tr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Item = TypeVar("Item")

_EXERCISE_MARK = re.compile(r"\s*# (END )?SOLUTION\b")
_PROGRESS_SECONDS = 0.2  # between two progress events: often enough for a person, rare enough for the log


class _Run:
    """The run directory and what the host wrote into its `context.json`."""

    def __init__(self, directory: Path, notebook: str | None) -> None:
        self.directory = directory
        self.notebook = notebook
        self.context: dict[str, Any] = json.loads((directory / "context.json").read_text(encoding="utf-8"))
        self.seen: set[tuple[str, int | None, str | None]] = set()

    def emit(self, event: dict[str, Any]) -> None:
        events = self.directory / "events"
        events.mkdir(exist_ok=True)
        with (events / f"{self.notebook or 'interactive'}.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(event, ensure_ascii=False) + "\n")


_run: _Run | None = None
_settings: Any = None


def _current() -> _Run:
    global _run
    if _run is None:
        directory = Path(os.environ.get("ONEPIECE_RUN") or Path.cwd() / ".run")
        if not (directory / "context.json").is_file():
            msg = "no lab is running here: open the notebook in your copy of the lab (nox -s start -- <lab>), or run nox -s <lab>"
            raise RuntimeError(msg)
        notebook = os.environ.get("ONEPIECE_NOTEBOOK")
        if notebook is None and "JPY_SESSION_NAME" in os.environ:  # JupyterLab tells which notebook this is
            notebook = Path(os.environ["JPY_SESSION_NAME"]).stem
        _run = _Run(directory, notebook)
    return _run


def __getattr__(name: str) -> Any:
    """`lab.settings`: made when first read, because it needs torch."""
    if name != "settings":
        raise AttributeError(name)
    global _settings
    if _settings is None:
        _settings = _make_settings(_current().context)
    return _settings


def _make_settings(context: dict[str, Any]) -> Any:
    import torch

    if context["device"] == "cuda":  # PyTorch's backward threads say so at their first matrix product; it means nothing
        warnings.filterwarnings("ignore", message="Attempting to run cuBLAS, but there was no current CUDA context")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in context["settings"].items()}
    values |= {
        "profile": context["profile"],
        "model": context["model"],
        "device": torch.device(context["device"]),
        "dtype": getattr(torch, context["dtype"]),
    }
    return make_dataclass("Settings", values, frozen=True)(**values)


def record(metric: str, value: float, *, seed: int | None = None, variant: str | None = None) -> None:
    """Hand a measured value to the run.

    Args:
        metric: its name, as gates in `lab.toml` use it. A literal string, so that a gate on a metric that
            nothing records is found before the run.
        value: a number or a truth value; not rounded.
        seed: the seed it was measured with, if the lab loops over seeds.
        variant: None for the lesson's result; otherwise the name of a control or a comparison.

    Raises:
        TypeError: the value is not a single number.
        ValueError: the same metric, seed and variant was recorded before in this notebook's run.
    """
    run = _current()
    if hasattr(value, "item") and getattr(value, "size", None) is not None and math.prod(value.shape) == 1:  # a tensor or an array
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        msg = f"lab.record({metric!r}) takes one number, not {type(value).__name__}"
        raise TypeError(msg)
    key = (metric, seed, variant)
    if key in run.seen and run.context["strict"]:
        msg = f"{metric} (seed {seed}, variant {variant}) is recorded twice; the first value would be lost"
        raise ValueError(msg)
    run.seen.add(key)
    run.emit({"event": "record", "metric": metric, "value": encode_number(value), "seed": seed, "variant": variant})


def predict(metric: str) -> float | None:
    """What the learner guessed for `metric` in `predictions.toml`, or None."""
    guess = _current().context["predictions"].get(metric)
    return None if guess is None else float(guess)


def artifact(name: str) -> Path:
    """The path of a file that one notebook makes and later ones read.

    The first notebook (in order) that names it makes it. In every other notebook the file must exist,
    from this run or from an earlier one.

    Raises:
        ValueError: the name leads out of the run.
        UserError: "missing-artifact", which says which notebook makes it.
    """
    run = _current()
    path = _inside(run.directory / "artifacts", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    maker = run.context["artifact_makers"].get(name)
    if path.exists() or run.notebook in (maker, None):
        return path
    for earlier in run.context["earlier_runs"]:
        if (Path(earlier) / "artifacts" / name).exists():
            return Path(earlier) / "artifacts" / name
    raise UserError(
        "missing-artifact",
        notebook=run.notebook,
        artifact=name,
        maker=maker or "no notebook",
        number=(maker or run.notebook)[:2],
        lab=run.context["lab"],
    )


def _inside(room: Path, name: str) -> Path:
    """The file of that name in a directory of the run, and nowhere else."""
    path = room / name
    if room not in Path(os.path.normpath(path)).parents:
        msg = f"{name!r} is no name for a file inside {room.name}/ of this run"
        raise ValueError(msg)
    return path


def figure(name: str, fig: Figure, caption: Text) -> None:
    """Show `fig` here, save it as PNG in the run, and put it in the report with `caption`.

    Plot labels are in the language of this run, by `tr` (`onepiece.figures` brings the font); the caption, which is also the alternative
    text, is in both.
    """
    from IPython.display import display
    from matplotlib import pyplot

    run = _current()
    path = _inside(run.directory / "figures", f"{name}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110, bbox_inches="tight")
    display(fig)
    pyplot.close(fig)  # else the inline backend shows it a second time
    say(f"*{caption.en}*", f"*{caption.zh_tw}*")
    run.emit({"event": "figure", "name": name, "file": f"figures/{name}.png", "caption": {"en": caption.en, "zh-TW": caption.zh_tw}})


def say(en: str, zh_tw: str) -> None:
    """Show Markdown made from results, in the language of this notebook."""
    from IPython.display import Markdown, display

    display(Markdown(tr(en, zh_tw)))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Show a table; floats are shown with four significant digits."""

    def cell(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    say("\n".join(lines), "\n".join(lines))


def source(function: Callable[..., object]) -> None:
    """Show the code of a lesson's function or class, without the marks that hold its exercises."""
    import inspect

    lines = [line for line in inspect.getsource(function).splitlines() if not _EXERCISE_MARK.match(line)]
    block = "\n".join(["```python", *lines, "```"])
    say(block, block)


def progress(iterable: Iterable[Item], **metrics: float | Callable[[], float]) -> Iterator[Item]:
    """Iterate and tell the run how far it is.

    Args:
        iterable: anything; with a length the run shows how much is left.
        metrics: current values to show, as numbers or as functions that give them (`loss=lambda: loss`).
    """
    run = _current()
    total = len(iterable) if hasattr(iterable, "__len__") else None
    if not run.context["strict"]:
        from tqdm.auto import tqdm

        yield from tqdm(iterable, total=total)
        return
    last = time.monotonic()
    for done, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _PROGRESS_SECONDS or done == total:
            last = now
            current = {name: encode_number(float(value() if callable(value) else value)) for name, value in metrics.items()}
            run.emit({"event": "progress", "done": done, "total": total, "metrics": current})
