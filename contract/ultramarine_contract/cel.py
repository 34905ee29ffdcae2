"""The part of CEL, with Kubernetes' functions, in which the rules of schemas and the conditions of steps are written.

An expression that needs more raises Unsupported. Of a schema's rule, only the API server evaluates it.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from .quantities import amount

Tree = tuple[Any, ...]
Names = Mapping[str, Any]

_TOKEN = re.compile(
    r"""(?P<text>[rR]?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))|(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>&&|\|\||[=!<>]=|[-+*<>!?:.,()\[\]])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
# Operators with two sides, by how tightly they bind.
_BINDING = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*",))
_MACROS = ("all", "exists", "exists_one", "filter", "map")


class Unsupported(Exception):
    """An expression beyond this part of CEL."""


class Failure(Exception):
    """An evaluation without a result, such as of a missing key."""


# ---- Parsing


@functools.cache
def parsed(expression: str) -> Tree:
    """Return the tree of an expression. Raises Unsupported."""
    parser = _Parser(expression)
    tree = parser.choice()
    parser.expect("")
    return tree


def is_supported(expression: str) -> bool:
    """True if the expression parses and calls known functions only."""

    def calls_known(tree: Tree) -> bool:
        return not (tree[0] == "call" and tree[1] is None) and all(
            calls_known(part) for part in tree[1:] if isinstance(part, tuple)
        )

    try:
        return calls_known(parsed(expression))
    except Unsupported:
        return False


def _plain(name: str) -> str:
    """Return a field's name without the underscores by which Kubernetes marks a word that CEL reserves."""
    return name[2:-2] if name in ("__while__", "__package__", "__namespace__") else name


class _Parser:
    """Recursive-descent parser of one expression."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens: list[tuple[str, str]] = []
        place = 0
        while place < len(expression):
            if expression[place].isspace():
                place += 1
            elif match := _TOKEN.match(expression, place):
                self._tokens.append((str(match.lastgroup), match[0]))
                place = match.end()
            else:
                raise Unsupported(expression)
        self._tokens.append(("end", ""))

    def _take(self, *words: str) -> str | None:
        """Take the next token if it is one of these words."""
        sort, text = self._tokens[0]
        return self._tokens.pop(0)[1] if sort in ("sign", "name", "end") and text in words else None

    def expect(self, word: str) -> None:
        if self._take(word) is None:
            raise Unsupported(self._expression)

    def choice(self) -> Tree:
        condition = self._sides(0)
        if self._take("?") is None:
            return condition
        then = self.choice()
        self.expect(":")
        return ("choice", condition, then, self.choice())

    def _sides(self, level: int) -> Tree:
        if level == len(_BINDING):
            return self._signed()
        tree = self._sides(level + 1)
        while sign := self._take(*_BINDING[level]):
            tree = (sign, tree, self._sides(level + 1))
        return tree

    def _signed(self) -> Tree:
        sign = self._take("!", "-")
        return ("not" if sign == "!" else "negative", self._signed()) if sign else self._member()

    def _member(self) -> Tree:
        tree = self._primary()
        while sign := self._take(".", "["):
            if sign == "[":
                tree = ("entry", tree, self.choice())
                self.expect("]")
                continue
            name = _plain(self._tokens.pop(0)[1])
            if self._take("(") is None:
                tree = ("field", tree, name)
            elif name in _MACROS:
                variable, *bodies = self._list(")")
                if variable[0] != "name" or len(bodies) != 1:
                    raise Unsupported(self._expression)
                tree = ("macro", name, tree, variable[1], bodies[0])
            else:
                tree = ("call", _METHODS.get(name), tree, *self._list(")"))
        return tree

    def _primary(self) -> Tree:
        sort, text = self._tokens.pop(0)
        match sort, text:
            case "text", _:
                inner = text.lstrip("rR")[1:-1]
                raw = text[0] in "rR"
                return ("constant", inner if raw else _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[1]), inner))
            case "number", _:
                return ("constant", int(text) if text.isdecimal() else float(text))
            case "name", "true" | "false":
                return ("constant", text == "true")
            case "name", _ if self._take("(") is not None:
                arguments = self._list(")")
                return ("has", arguments[0]) if text == "has" else ("call", _FUNCTIONS.get(text), *arguments)
            case "name", _:
                return ("name", text)
            case "sign", "(":
                tree = self.choice()
                self.expect(")")
                return tree
            case "sign", "[":
                return ("list", *self._list("]"))
        raise Unsupported(self._expression)

    def _list(self, end: str) -> list[Tree]:
        trees: list[Tree] = []
        while self._take(end) is None:
            if trees:
                self.expect(",")
            trees.append(self.choice())
        return trees


# ---- Evaluation


def evaluate(tree: Tree, names: Names) -> Any:
    """Return the value of a tree. Raises Failure, and Unsupported for an unknown function."""
    match tree:
        case "constant", value:
            return value
        case "name", name:
            return names[name] if name in names else TYPES[name]
        case "field", inner, name:
            return _entry(evaluate(inner, names), name)
        case "entry", inner, key:
            return _entry(evaluate(inner, names), evaluate(key, names))
        case "has", ("field", inner, name):
            return name in evaluate(inner, names)
        case "list", *items:
            return [evaluate(item, names) for item in items]
        case "not", inner:
            return not evaluate(inner, names)
        case "negative", inner:
            return -evaluate(inner, names)
        case "choice", condition, then, otherwise:
            return evaluate(then if evaluate(condition, names) else otherwise, names)
        case ("||" | "&&") as sign, left, right:
            return _either([lambda: evaluate(left, names), lambda: evaluate(right, names)], sign == "||")
        case "macro", name, inner, variable, body:
            return _macro(name, list(evaluate(inner, names)), lambda item: evaluate(body, {**names, variable: item}))
        case "call", function, *arguments if function is not None:
            return _called(function, [evaluate(argument, names) for argument in arguments])
        case sign, left, right if sign in _OPERATORS:
            return _called(_OPERATORS[sign], [evaluate(left, names), evaluate(right, names)])
    raise Unsupported(str(tree))


def _entry(value: Any, key: Any) -> Any:
    try:
        return value[key]
    except (KeyError, IndexError, TypeError):
        raise Failure(f"no {key}") from None


def _called(function: Callable[..., Any], arguments: list[Any]) -> Any:
    try:
        return function(*arguments)
    except (TypeError, ValueError, AttributeError) as error:
        raise Failure(str(error)) from None


def _either(parts: list[Callable[[], Any]], decisive: bool) -> bool:
    """Return `decisive` if a part has that value, whatever fails in the others."""
    failure: Failure | None = None
    for part in parts:
        try:
            if equal(part(), decisive):
                return decisive
        except Failure as error:
            failure = error
    if failure:
        raise failure
    return not decisive


def _macro(name: str, items: list[Any], body: Callable[[Any], Any]) -> Any:
    match name:
        case "all" | "exists":
            return _either([functools.partial(body, item) for item in items], name == "exists")
        case "exists_one":
            return sum(body(item) is True for item in items) == 1
        case "filter":
            return [item for item in items if body(item)]
    return [body(item) for item in items]


def equal(left: Any, right: Any) -> bool:
    """Compare as CEL does: numbers by value, anything else by type and value."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


def _product(left: Any, right: Any) -> Any:
    """Return the product of two numbers; Python would repeat a text or a list."""
    if not all(isinstance(side, (int, float)) and not isinstance(side, bool) for side in (left, right)):
        raise TypeError("only numbers can be multiplied")
    return left * right


def _contains(item: Any, items: Any) -> bool:
    return item in items if isinstance(items, dict) else any(equal(item, other) for other in items)


def _matches(text: str, pattern: str) -> bool:
    return _expression(pattern).search(text) is not None


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    r"""Return a pattern of RE2 for Python: $ is the very end, and \s is white space of ASCII without \v."""
    parts, in_class = [], False
    for part in re.findall(r"\\.|.", pattern, re.DOTALL):
        if part == r"\s":
            part = "\\t\\n\\f\\r " if in_class else "[\\t\\n\\f\\r ]"
        elif part == "$" and not in_class:
            part = r"\Z"
        elif part in "[]":
            in_class = part == "["
        parts.append(part)
    return re.compile("".join(parts), re.ASCII)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _type(value: Any) -> str:
    return next(name for type, name in _NAMES.items() if isinstance(value, type))


_NAMES = {bool: "bool", int: "int", float: "double", str: "string", list: "list", dict: "map"}
TYPES = {name: name for name in _NAMES.values()}
_OPERATORS: dict[str, Callable[..., Any]] = {
    "==": equal,
    "!=": lambda left, right: not equal(left, right),
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": _contains,
    "+": operator.add,
    "-": operator.sub,
    "*": _product,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "size": len,
    "string": _string,
    "type": _type,
    "dyn": lambda value: value,
    "quantity": amount,
}
_METHODS: dict[str, Callable[..., Any]] = {
    "size": len,
    "matches": _matches,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": lambda text, part: part in text,
    "sum": sum,
    "isSorted": lambda items: items == sorted(items),
    "isGreaterThan": operator.gt,
    "isLessThan": operator.lt,
    "compareTo": lambda left, right: (left > right) - (left < right),
}
