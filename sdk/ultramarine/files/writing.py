"""Writing of YAML that kubectl reads as it was meant."""

from __future__ import annotations

from typing import Any

import yaml

from .scalars import scalar

_TEXT = "tag:yaml.org,2002:str"


def yaml_text(content: Any) -> str:
    """Return YAML in the order of the fields; texts of several lines are blocks, and those like numbers have quotes.

    PyYAML writes y, on and 1e5 without quotes, which kubectl reads as booleans and numbers.
    """
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


class _Dumper(yaml.SafeDumper):
    """A dumper without anchors, since users read the text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None if isinstance(scalar(text), str) else "'"
    return dumper.represent_scalar(_TEXT, text, style=style)


_Dumper.add_representer(str, _represent)
