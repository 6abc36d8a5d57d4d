"""Two values that differ, as a terminal shows them: masks as pictures, long lists around the first difference, tensors at the worst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onepiece.course.text import tr

TRUE, FALSE, WRONG = "■", "·", "×"
_ROWS, _COLUMNS = 24, 60  # of a picture
_LINE = 120  # characters of anything else

Mask = list[list[bool]]


def shown(got: Any, want: Any) -> tuple[str, str]:
    """What was got and what was wanted. A picture begins on a line of its own; in what was got `×` marks each wrong place."""
    where = _worst_place(got, want)
    drawn = [_mask(value, where, of) for value, of in ((got, want), (want, got))]
    if drawn[0] is not None and drawn[1] is not None:
        return _picture(drawn[0], drawn[1], _kind(got)), _picture(drawn[1], None, _kind(want))
    place = _first_difference(got, want)
    return _described(got, where, place), _described(want, where, place)


def _kind(value: Any) -> str:
    return f"tensor{tuple(value.shape)}" if hasattr(value, "shape") else tr(f"{len(value)} values", f"{len(value)} 個值")


def _mask(value: Any, where: tuple[int, ...] | None, other: Any) -> Mask | None:
    """A mask as rows; of more than two dimensions the last two at `where`. None for what is none, or too small to need a picture."""
    import torch

    if isinstance(value, torch.Tensor):
        if not isinstance(other, torch.Tensor) or value.dim() == 0 or value.numel() <= 4 or not (_binary(value) and _binary(other)):
            return None
        while value.dim() > 2:
            value, where = value[where[0] if where else 0], where[1:] if where else None
        rows = value.detach().cpu().bool().tolist()
        return rows if value.dim() == 2 else _folded(rows)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    if all(isinstance(item, bool) for item in value):
        return _folded(value) if len(value) > 8 else None
    rows = [list(row) for row in value if isinstance(row, Sequence) and not isinstance(row, str)]
    return rows if len(rows) == len(value) and all(rows) and all(isinstance(item, bool) for row in rows for item in row) else None


def _binary(value: Any) -> bool:
    import torch

    return value.dtype == torch.bool or (
        not value.is_floating_point() and not value.is_complex() and bool(((value == 0) | (value == 1)).all())
    )


def _folded(values: Sequence[bool]) -> Mask:
    return [list(values[start : start + _COLUMNS]) for start in range(0, len(values), _COLUMNS)]


def _picture(mask: Mask, right: Mask | None, kind: str) -> str:
    """The rows of a mask; where it is larger than a terminal, those around the first place that is wrong."""
    comparable = right if right is not None and [len(row) for row in right] == [len(row) for row in mask] else mask
    wrong = [(i, j) for i, row in enumerate(mask) for j, value in enumerate(row) if value != comparable[i][j]]
    first = max(0, wrong[0][0] - _ROWS // 2) if wrong and len(mask) > _ROWS else 0
    left = max(0, wrong[0][1] - _COLUMNS // 2) if wrong and len(mask[0]) > _COLUMNS else 0
    marked = set(wrong)
    lines = [
        "".join(WRONG if (i, j) in marked else TRUE if value else FALSE for j, value in enumerate(row) if left <= j < left + _COLUMNS)
        for i, row in enumerate(mask)
        if first <= i < first + _ROWS
    ]
    legend = f"{kind}  {TRUE} true  {FALSE} false" + (
        f"  {WRONG} {tr(f'wrong, {len(wrong)}', f'錯誤，共 {len(wrong)} 個')}" if wrong else ""
    )
    cut = tr(f"from row {first}, column {left}", f"從第 {first} 列、第 {left} 行開始") if first or left else ""
    return "\n".join([f"{legend}  {cut}".rstrip(), *(f"      {line}" for line in lines)])


def _first_difference(got: Any, want: Any) -> int | None:
    """The index at which two lists part."""
    if not all(isinstance(value, Sequence) and not isinstance(value, str) for value in (got, want)):
        return None
    return next((index for index, (one, other) in enumerate(zip(got, want, strict=False)) if one != other), min(len(got), len(want)))


def _worst_place(got: Any, want: Any) -> tuple[int, ...] | None:
    """The index of the largest difference between two tensors of one shape."""
    import torch

    if not isinstance(want, torch.Tensor) or not isinstance(got, torch.Tensor) or got.shape != want.shape or want.dim() == 0:
        return None
    gap = torch.nan_to_num((got.detach().double().cpu() - want.detach().double().cpu()).abs(), nan=math.inf)
    return tuple(int(index) for index in torch.unravel_index(gap.argmax(), gap.shape))


def _described(value: Any, where: tuple[int, ...] | None, place: int | None) -> str:
    """A value short enough for one line of a terminal, with the one at `where`; of a long list what is around `place`."""
    import torch

    if not isinstance(value, torch.Tensor):
        text = repr(value)
        if len(text) > _LINE and place is not None:
            around = ", ".join(repr(item) for item in value[max(0, place - 2) : place + 4])
            around = around if len(around) <= _LINE - 20 else around[: _LINE - 23] + "..."
            return f"[{'..., ' * (place > 2)}{around}{', ...' * (place + 4 < len(value))}] " + tr(
                f"(the first difference: {place} of {len(value)})", f"（第一個差異：{len(value)} 個中的第 {place} 個，從 0 算起）"
            )
        return text if len(text) <= _LINE else text[: _LINE - 3] + "..."
    flat = value.detach().double().flatten()[:4].tolist()
    numbers = ", ".join(f"{number:.5g}" for number in flat)
    more = ", ..." if value.numel() > 4 else ""
    at = "" if where is None else f", {value[where].item():.5g} at {list(where)}"
    return f"tensor{tuple(value.shape)} [{numbers}{more}]{at}"
