"""Values of plain YAML scalars, as kubectl reads them: YAML 1.1 as go-yaml has it."""

from __future__ import annotations

import math
import re
from typing import Any

WORDS: dict[str, Any] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INTEGER = re.compile(r"([-+]?)(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_BEGINNINGS = "+-0123456789"  # of numbers that may have underscores
_EXACT = 2**63  # beyond it the API server reads a float


def scalar(text: str) -> Any:
    """Return the value of a plain scalar: a text, a number, a boolean or None; whole numbers are integers."""
    if text in WORDS:
        return WORDS[text]
    plain = text.replace("_", "") if text[:1] in _BEGINNINGS else text
    if match := _INTEGER.fullmatch(plain):
        number = _integer(match[2])
        number = -number if match[1] == "-" else number
        return number if -_EXACT <= number < _EXACT else float(number)
    if _FLOAT.fullmatch(plain):
        real = float(plain)
        return int(real) if real.is_integer() and abs(real) < _EXACT else real
    return text


def _integer(digits: str) -> int:
    octal = digits[0] == "0" and digits[1:2].isdigit()
    return int(digits, 8) if octal else int(digits, 0)
