"""The documents and the commands that stand in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("zoo/chain/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:\.venv/bin/)?(python|pip|make) ([^#]*)(#.*)?")


@dataclass(frozen=True, order=True)
class Command:
    """A command of a document.

    Attributes:
        program: ``python``, ``pip`` or ``make``.
        words: Its arguments.
        needs: Whether the comment beside it says that it needs something.
    """

    program: str
    words: tuple[str, ...]
    needs: bool

    def __str__(self) -> str:
        return re.sub(r"[^\w.-]+", "_", " ".join(self.words))


def blocks(text: str, *kinds: str) -> list[str]:
    """The fenced blocks of these languages."""
    return [body for kind, body in FENCE.findall(text) if kind in kinds]


def commands() -> list[Command]:
    """All commands, in fenced blocks without a language and between backticks."""
    found = set()
    for document in DOCUMENTS:
        text = document.read_text()
        lines = [line for body in blocks(text, "") for line in body.splitlines()]
        for line in [*lines, *re.findall(r"`((?:python|make) [^`]+)`", FENCE.sub("", text))]:
            if match := COMMAND.fullmatch(line):
                program, arguments, comment = match.groups()
                found.add(Command(program, tuple(shlex.split(arguments)), "needs" in (comment or "")))
    return sorted(found)
