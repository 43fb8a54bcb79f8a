"""The fenced blocks of the documentation, and the command lines in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / 'docs'
PAGES = (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted(DOCS.glob('**/*.md')))
_FENCE = re.compile(
    r'^(?P<indent> *)```(?P<language>\w*) *(?:title="(?P<title>[^"]*)")?\n(?P<text>.*?)^ *```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Where it stands: a path from the repository's root.
        line: Number of its first line in the page.
        language: What follows the fence; empty if nothing does.
        title: Its title, which is a file's name; empty if it has none.
        text: What is in it.
    """

    page: str
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f'{self.page}:{self.line}'

    @cached_property
    def commands(self) -> list[str]:
        """The command lines, without comments and prompts, each in one line."""
        if self.language not in ('bash', 'console'):
            return []
        text = self.text.replace('\\\n', ' ')
        lines = text.splitlines()
        if self.language == 'console':
            lines = [line[2:] for line in lines if line.startswith('$ ')]
        commands = (_without_comment(line) for line in lines)
        return [' '.join(command.split()) for command in commands if command]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, from the top."""
    content = page.read_text()
    for found in _FENCE.finditer(content):
        yield Block(
            page.relative_to(ROOT).as_posix(),
            content.count('\n', 0, found.start()) + 2,
            found['language'],
            found['title'] or '',
            textwrap.dedent(found['text']),
        )


def all_blocks() -> list[Block]:
    """Every block of the documentation."""
    return [block for page in PAGES for block in blocks(page)]


def words(command: str) -> tuple[dict[str, str], list[str]]:
    """The variables that a command line sets for itself, and its words."""
    variables, rest = {}, shlex.split(command)
    while rest and re.match(r'\w+=', rest[0]):
        name, _, variables[name] = rest.pop(0).partition('=')
    return variables, rest


def _without_comment(line: str) -> str:
    """A line up to a # that begins a word and is not quoted."""
    quote = ''
    for at, character in enumerate(line):
        if quote:
            quote = '' if character == quote else quote
        elif character in '\'"':
            quote = character
        elif character == '#' and (at == 0 or line[at - 1].isspace()):
            return line[:at].strip()
    return line.strip()
