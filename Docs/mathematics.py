"""Formulas between dollar signs become MathML, which browsers draw without any script."""

import re

from latex2mathml.converter import convert

CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
_formulas: list[str] = []


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put a mark in the place of each formula, so that Markdown leaves its signs alone."""
    parts = CODE.split(markdown)
    return "".join(part if part.startswith("`") else FORMULA.sub(_mark, part) for part in parts)


def on_page_content(html: str, **_: object) -> str:
    """Put the formulas in the place of their marks."""
    return re.sub(r"formula(\d+)mark", lambda found: _formulas[int(found[1])], html)


def _mark(found: re.Match[str]) -> str:
    block, inline = found.groups()
    _formulas.append(convert(block or inline, display="block" if block else "inline"))
    return f"formula{len(_formulas) - 1}mark"
