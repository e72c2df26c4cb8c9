"""Text of data made harmless for where it is shown: class names, notes, names of files, words of errors."""

from __future__ import annotations

import html
import re
from typing import Any

# Control characters end an XML file and command a terminal, lone surrogates cannot be written, direction marks turn
# text around.
_UNWRITABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
# The last three are addresses, which become links without any markup.
_SPECIAL = re.compile(r"[\\`*_{}\[\]#|~$]|:(?=//)|(?<=www)\.|@", re.IGNORECASE)


def clean(words: Any) -> str:
    """Text without what no file format carries; a replacement character marks each place."""
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", str(words))


def for_terminal(text: str) -> str:
    """Text that a terminal only shows."""
    return clean(text.replace("\r", "\N{REPLACEMENT CHARACTER}"))


def markdown_text(text: Any) -> str:
    """Words on one line that cannot become markup, neither Markdown nor HTML."""
    return markdown_escaped(" ".join(str(text).split()))


def markdown_escaped(text: str) -> str:
    """As ``markdown_text``, with the spaces as they are."""
    plain = clean(text).replace("\r", " ").replace("\n", " ")
    return html.escape(_SPECIAL.sub(r"\\\g<0>", plain), quote=False)


def markdown_code(text: Any) -> str:
    """Text as inline code, also within a table; empty for empty text."""
    plain = " ".join(clean(text).split()).replace("|", "\\|")
    if not plain:
        return ""
    fence = fence_around(plain, 1)
    room = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{room}{plain}{room}{fence}"


def fence_around(text: str, least: int) -> str:
    """Backticks that no run of backticks in the text can end; ``least`` of them or more."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1 if longest else least)
