"""What can be wrong with one statement: each edit is a mistake that somebody could make.

    a statement left out            a + b, a * b, a // b, a & b, a < b, a == b, a in b, a and b    the operator's neighbour
    -a, ~a, not a                   the sign, or the negation, left out; `if a` with a negation that is not there
    x[0], dim=-1                    another axis            3    one more, one less
    True                            False                   f(a, b, key=c)    f(b, a, key=c), f(a, b)

The set is that of mutation testing in general (mutmut and cosmic-ray have much the same) with what goes wrong in tensor code. `strict` of
`zip` stays: it guards against a caller's mistake, as an `assert` does, and without one nobody sees whether it is there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from onepiece.host.mutation.source_text import Edit, SourceText

NEIGHBOURS: dict[type[ast.AST], str] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "*", ast.Pow: "*", ast.BitAnd: "|", ast.BitOr: "&",
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is", ast.And: "or", ast.Or: "and",
}  # fmt: skip
AXES = ("dim", "axis", "dims", "dim0", "dim1", "start_dim", "end_dim")  # keywords whose numbers mean an axis
OTHER_AXIS = {0: 1, 1: 0, -1: 0}  # any other axis: the one nearer to zero
UNORDERED = ("max", "min", "maximum", "minimum")  # functions that do not care which argument comes first
SMALL = 16  # a larger constant is a size, which nobody is off by one in

# What a reader is shown of an edit: the smallest of these around it.
_SHOWN = (ast.BinOp, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Call, ast.Subscript, ast.IfExp)
_NEGATED = (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.BinOp)  # comparisons and `not` have edits of their own
_OPAQUE = tuple(getattr(ast, name) for name in ("JoinedStr", "TemplateStr") if hasattr(ast, name))


def edits(source: SourceText, statement: ast.stmt) -> Iterator[Edit]:
    """Every edit of a statement and of what is in it."""
    start, end = source.span(statement)
    if _would_be_missed(statement):
        # What stands in the `else` of an `if` may be written as `elif`.
        yield Edit(start, end, "else: pass" if source.text.startswith("elif", start) else "pass", None)
    shown = None if hasattr(statement, "body") else (start, end)
    if isinstance(statement, ast.AugAssign):
        yield from _operator(source, statement.target, statement.op, statement.value, (start, end))
    if isinstance(statement, (ast.If, ast.While, ast.Assert)):
        yield from _negation(source, statement.test)
    yield from _below(source, statement, shown, axis=False)


def _would_be_missed(statement: ast.stmt) -> bool:
    is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
    return not is_docstring and not isinstance(statement, ast.Pass)


def _below(source: SourceText, node: ast.AST, shown: tuple[int, int] | None, axis: bool) -> Iterator[Edit]:
    """Edits of what a node consists of. `axis`: whether its own numbers mean axes or places."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        if isinstance(node, ast.Call) and field == "keywords":
            value = [keyword for keyword in value if not _guards(node, keyword)]
        means_axis = (
            (isinstance(node, ast.Subscript) and field == "slice")
            or (isinstance(node, ast.keyword) and node.arg in AXES)
            or (isinstance(node, (ast.Tuple, ast.List)) and axis)
        )
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.stmt):
                yield from edits(source, child)
            elif isinstance(child, ast.AST) and not isinstance(child, _OPAQUE):
                yield from _edits_of_part(source, child, shown, means_axis)


def _edits_of_part(source: SourceText, node: ast.AST, shown: tuple[int, int] | None, axis: bool) -> Iterator[Edit]:
    """Edits of an expression, or of another part of a statement, and of what is in it."""
    number = _number(node)
    if number is not None:
        assert isinstance(node, ast.expr)
        for other in _other_numbers(number, axis):
            yield Edit(*source.span(node), str(other), shown or source.span(node))
        return
    if isinstance(node, _SHOWN):
        shown = source.span(node)
    match node:
        case ast.Constant(value=bool(value)):
            yield Edit(*source.span(node), str(not value), shown or source.span(node))
        case ast.BinOp():
            yield from _operator(source, node.left, node.op, node.right, shown)
        case ast.Compare():
            for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                yield from _operator(source, left, operator, right, shown)
        case ast.BoolOp():
            for left, right in pairwise(node.values):
                yield from _operator(source, left, node.op, right, shown)
        case ast.UnaryOp(op=ast.USub() | ast.Invert() | ast.Not()):
            yield _without_sign(source, node)
        case ast.IfExp():
            yield from _negation(source, node.test)
        case ast.comprehension():
            for test in node.ifs:
                yield from _negation(source, test)
        case ast.Call():
            yield from _call(source, node)
    yield from _below(source, node, shown, axis)


def _operator(source: SourceText, left: ast.expr, operator: ast.AST, right: ast.expr, shown: tuple[int, int] | None) -> Iterator[Edit]:
    """The operator between two operands, which may stand in brackets, becomes its neighbour."""
    if type(operator) in NEIGHBOURS:
        words = [word for word in source.between(source.span(left)[1], source.span(right)[0]) if word.string not in "()"]
        assigned = "=" if len(words[0].string) > 1 and words[0].string.endswith("=") and isinstance(operator, ast.operator) else ""
        yield Edit(words[0].start, words[-1].end, NEIGHBOURS[type(operator)] + assigned, shown)


def _negation(source: SourceText, test: ast.expr) -> Iterator[Edit]:
    if isinstance(test, _NEGATED):
        start, end = source.span(test)
        yield Edit(start, start, "not ", (start, end))


def _without_sign(source: SourceText, node: ast.UnaryOp) -> Edit:
    start, end = source.span(node)
    sign = source.after(start)
    return Edit(start, source.rest_of_blank(sign.end), "", (start, end))


def _number(node: ast.AST) -> int | None:
    """The value of an integer with its sign, which are two nodes and one thing; None for everything else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        positive = _number(node.operand) if isinstance(node.operand, ast.Constant) else None
        return None if positive is None else -positive
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def _other_numbers(number: int, axis: bool) -> list[int]:
    if abs(number) > SMALL:
        return []
    if axis:
        return [OTHER_AXIS.get(number, number + 1 if number < 0 else number - 1)]
    return [number - 1, number + 1]


def _call(source: SourceText, call: ast.Call) -> Iterator[Edit]:
    """The first two arguments the other way round, if both are names; and each keyword left out."""
    shown = source.span(call)
    match call.args[:2]:
        case [ast.Name(id=one) as first, ast.Name(id=other) as second] if one != other and _name(call) not in UNORDERED:
            (start, after_first), (before_second, end) = source.span(first), source.span(second)
            yield Edit(start, end, other + source.text[after_first:before_second] + one, shown)
    for keyword in call.keywords:
        if keyword.arg is None or _guards(call, keyword):  # f(**values)
            continue
        start, end = source.span(keyword)
        if source.before(start).string == ",":
            start = source.before(start).start
        elif source.after(end).string == ",":
            end = source.rest_of_blank(source.after(end).end)
        yield Edit(start, end, "", shown)


def _guards(call: ast.Call, keyword: ast.keyword) -> bool:
    return _name(call) == "zip" and keyword.arg == "strict"


def _name(call: ast.Call) -> str | None:
    """`max` of both `max(...)` and `torch.max(...)`."""
    return getattr(call.func, "id", None) or getattr(call.func, "attr", None)
