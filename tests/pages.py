"""Reading of the repository's pages: headings, links, code blocks and commands."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Folders that hold pages of ours; a clone may hold data and runs elsewhere.
PLACES = ("README.md", "data/README.md", "decision_seq/**/*.md", "experiments/**/*.md")
FENCED = re.compile(
    r"^(?P<mark><!-- [^\n]* -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
ASSIGNMENT = re.compile(r"[A-Z][A-Z_]*=.*")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    """The page's path in the repository."""
    language: str
    """The word after the fence; empty without one."""
    mark: str
    """The text of the comment on the line before, such as `file: arm.py`; empty without one."""
    text: str


@dataclass(frozen=True)
class Command:
    """A command of a page, from a block or from its text."""

    page: str
    """The page's path in the repository."""
    words: tuple[str, ...]
    """The program and its arguments."""
    variables: tuple[str, ...] = ()
    """Assignments before the program, `NAME=value`."""

    def __str__(self) -> str:
        return shlex.join((*self.variables, *self.words))

    @property
    def cut(self) -> bool:
        """Whether dots stand for the rest of it."""
        return any(word.endswith("...") for word in self.words)

    @property
    def arguments(self) -> tuple[str, ...] | None:
        """The arguments of our own command line, behind whatever launches it; None if it is not."""
        if self.words[0].removeprefix(".venv/bin/") == "decision-seq":
            return self.words[1:]
        if self.words[0].startswith("experiments/launch/"):  # a script that passes its options on
            return ("train", *self.words[1:]) if (ROOT / self.words[0]).exists() else None
        if (
            "decision_seq" in self.words
            and self.words[self.words.index("decision_seq") - 1] == "-m"
        ):
            return self.words[self.words.index("decision_seq") + 1 :]
        return None


def pages() -> dict[str, str]:
    """Path in the repository -> text of every page."""
    found = sorted({path for place in PLACES for path in ROOT.glob(place)})
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in found}


def blocks(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page."""
    found = []
    for match in FENCED.finditer(text):
        mark = (match["mark"] or "").strip().removeprefix("<!-- ").removesuffix(" -->")
        found.append(Block(page, match["language"], mark, match["text"]))
    return found


def write_files(folder: Path) -> None:
    """Write the files that PYTHON.md gives in full, marked `file: NAME`, into a folder."""
    page = "decision_seq/PYTHON.md"
    for block in blocks(page, pages()[page]):
        if block.mark.startswith("file: "):
            (folder / block.mark.removeprefix("file: ")).write_text(block.text)


@cache
def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return FENCED.sub("", text)


def spans(text: str) -> list[str]:
    """The code in the lines of a page, each on one line."""
    return [" ".join(span.split()) for span in SPAN.findall(prose(text))]


def links(text: str) -> list[str]:
    """The targets of a page's links and pictures."""
    return LINK.findall(SPAN.sub("", prose(text)))


@cache
def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = base = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        number = 0
        while slug in found:
            number += 1
            slug = f"{base}-{number}"
        found.add(slug)
    return found


def command(page: str, line: str) -> Command | None:
    """The command of a shell's line; None for a line without one."""
    words = shlex.split(line, comments=True)
    count = next((i for i, word in enumerate(words) if not ASSIGNMENT.fullmatch(word)), len(words))
    return Command(page, tuple(words[count:]), tuple(words[:count])) if words[count:] else None


def commands() -> list[Command]:
    """Every command that a page shows: each line of a shell block, and `decision-seq ...` in its
    text."""
    found = []
    for page, text in pages().items():
        for block in blocks(page, text):
            if block.language == "sh":
                joined = block.text.replace("\\\n", " ")
                found += [command(page, line) for line in joined.splitlines()]
        inline = (span for span in spans(text) if span.startswith(("decision-seq ", "make ")))
        found += [command(page, span) for span in inline]
    return list(dict.fromkeys(one for one in found if one))
