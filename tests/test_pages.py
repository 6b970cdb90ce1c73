"""Tests of the pages: links, commands, names and the Python that they show."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
import yaml

from decision_seq import at_hand
from decision_seq.commands import build_parser
from decision_seq.commands.configuration_help import described
from decision_seq.commands.parsing import option_names, parsers_below
from decision_seq.components import keys_of
from decision_seq.envs import named
from decision_seq.recipes import recipes
from tests import pages
from tests.conftest import write_store
from tests.page_faults import EXTENDING, OF_PLUGINS, fault
from tests.pages import ROOT

PAGES = pages.pages()
# Options of torchrun, Slurm, the original's code and our scripts, and a word for any key.
OF_OTHERS = {
    *("--signals-to-handle", "--master_addr", "--node_rank", "--requeue", "--model_type"),
    *("--snapshot-every", "--key"),
}
COMMANDS = [one for one in pages.commands() if not one.cut]


def test_the_readme_is_short_and_leads_on() -> None:
    readme = PAGES["README.md"]
    assert len(readme.splitlines()) <= 150
    wanted = {
        *("install", "your-own-data-and-environment", "long-runs-and-clusters", "results"),
        *("extend", "act-in-your-own-loop", "methods", "python"),
    }
    assert wanted <= pages.anchors(readme)
    for heading in wanted:
        assert f"](#{heading})" in readme, "the line of links below the picture"
    assert "Tests are run by `make test`" in readme


def targets() -> Iterator[tuple[str, str]]:
    for page, text in PAGES.items():
        for link in pages.links(text):
            if not link.startswith("https://"):
                yield page, link


def broken(page: str, link: str) -> bool:
    """Whether a link leads nowhere."""
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    try:
        there = target.resolve().relative_to(ROOT).as_posix()
    except ValueError:
        return True  # outside the repository
    if anchor:
        return anchor not in pages.anchors(PAGES.get(there, ""))
    return not target.exists()


def test_links_and_anchors_resolve() -> None:
    # The notebooks are a folder of their own, which a package without them may lack.
    known = (ROOT / "experiments" / "notebooks").exists()
    found = [t for t in targets() if known or "notebooks" not in t[1]]
    assert len(found) > 150
    assert [t for t in found if broken(*t)] == []
    assert broken("README.md", "data/none.md")
    assert broken("README.md", "#none")
    assert broken("README.md", "data/README.md#none")
    assert broken("README.md", "../outside.md")


def test_every_page_is_linked() -> None:
    linked = set()
    for page, link in targets():
        path = (ROOT / page).parent / link.partition("#")[0]
        linked.add(path.resolve().relative_to(ROOT).as_posix())
    # The cards of the policies at hand lie beside the policies.
    alone = set(PAGES) - linked - {"README.md"}
    assert [page for page in alone if not page.startswith("decision_seq/at_hand/")] == []


def test_named_files_exist() -> None:
    """Paths of the repository in code; EXTENDING.md also names the files of its recipes."""
    new = set(re.findall(r"<!-- example: \w+ (\S+) -->", PAGES[EXTENDING]))
    path = re.compile(r"(tests|decision_seq|experiments|data)/[\w./-]+")
    found = {
        span
        for text in PAGES.values()
        for span in pages.spans(text)
        if path.fullmatch(span) and span not in new
    }
    assert len(found) > 20
    assert [span for span in sorted(found) if not (ROOT / span).exists()] == []


def test_named_recipes_and_policies_exist() -> None:
    families = {name.partition("/")[0] for name in recipes() if "/" in name} - {"atari"}
    recipe = re.compile(rf"({'|'.join(families)})/[a-z][\w-]*")
    words = {span for text in PAGES.values() for span in pages.spans(text)}
    found = {word for word in words if recipe.fullmatch(word)}
    assert len(found) > 10
    assert sorted(found - set(recipes())) == []
    policies = {word for word in words if re.fullmatch(r"bundled/[\w-]+-(dt|bc|tt)", word)}
    assert policies == set(at_hand.names())


def options() -> set[str]:
    """Every option of every verb, and every key of the configuration."""
    verbs = {name for parser in parsers_below(build_parser()) for name in option_names(parser)}
    keys = [key.split(".") for key in keys_of(described())]
    sections = {".".join(parts[:depth]) for parts in keys for depth in range(1, len(parts) + 1)}
    return verbs | {f"--{key}" for key in sections}


def test_named_options_exist() -> None:
    known = options()
    found = {
        span.split()[0].partition("=")[0]
        for page, text in PAGES.items()
        if page not in OF_PLUGINS
        for span in pages.spans(text)
        if span.startswith("--")
    }
    assert len(found) > 40
    assert sorted(found - known - OF_OTHERS) == []


def test_blocks_of_a_shell_parse() -> None:
    scripts = [
        b.text for p, text in PAGES.items() for b in pages.blocks(p, text) if b.language == "sh"
    ]
    assert len(scripts) > 25
    done = subprocess.run(
        ["bash", "-n"], input="\n".join(scripts), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def named_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The files that commands name for the reader's own, in the current folder."""
    monkeypatch.chdir(tmp_path)
    pages.write_files(tmp_path)
    Path("FILE.yaml").write_text("train: {steps: 5}\n")
    (grid,) = [b for b in pages.blocks("", PAGES["experiments/README.md"]) if b.mark == "grid"]
    Path("GRID.yaml").write_text(grid.text)
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("arm", None)
    gymnasium.registry.pop("Arm-v0", None)
    named._trusted.discard("arm:Arm-v0")


@pytest.mark.parametrize("page", sorted({one.page for one in COMMANDS}))
def test_commands_are_understood(page: str, named_files: None) -> None:
    faults = {str(one): fault(one) for one in COMMANDS if one.page == page}
    assert {one: what for one, what in faults.items() if what} == {}


@pytest.mark.parametrize(
    "line",
    [
        *("decision-seq evaluat runs/mine", "decision-seq evaluate runs/mine --targets 3"),
        *("decision-seq train --train.step 3", "decision-seq train --config dt/gymm", "maker test"),
        *("decision-seq sweep gym-mediun", "make tests", "make train A=x", "pip install nothing"),
        *("python experiments/none.py", "python experiments/behaviour/bundle.py --folder x"),
        *("make train CONFIG=dt/gymm", "decision-seq doctor runs/mine", "sbatch none.sbatch"),
    ],
)
def test_a_wrong_command_is_found(line: str, named_files: None) -> None:
    wrong = pages.command("README.md", line)
    assert wrong is not None
    assert fault(wrong)


# What the Python of the pages says of sizes -> a tiny form of it.
TINY = {
    r'"train\.steps": \d+': '"train.steps": 2, "train.warmup_steps": 1, "train.batch_size": 4,'
    ' "train.trackers": [], "evaluation.episodes": 1, "evaluation.workers": 1',
    r'"bundled/hopper-medium"': '"toy"',
    r"\b(episodes\(|episodes=)\d+": r"\g<1>3",
    r"\b(range\(|max_episode_steps=)\d+": r"\g<1>25",
}


@pytest.mark.parametrize("page", ["README.md", "decision_seq/PYTHON.md"])
def test_the_python_of_a_page_runs(page: str, named_files: None, tmp_path: Path) -> None:
    """All blocks of a page in order, as one script, with tiny sizes."""
    write_store(tmp_path, [30, 20], "toy")
    found = [b for b in pages.blocks(page, PAGES[page]) if b.language == "python"]
    space: dict[str, object] = {"__name__": "page"}
    for block in found:
        text = block.text
        for pattern, small in TINY.items():
            text = re.sub(pattern, small, text)
        if block.mark.startswith("file: "):
            (tmp_path / block.mark.removeprefix("file: ")).write_text(text)
        else:
            exec(compile(text, page, "exec"), space)
    assert "agent" in space


def test_yaml_of_the_pages_is_read() -> None:
    texts = [b.text for p, t in PAGES.items() for b in pages.blocks(p, t) if b.language == "yaml"]
    assert len(texts) > 5
    assert all(isinstance(yaml.safe_load(text), dict) for text in texts)


def test_the_picture_of_the_readme_is_drawn_from_the_pages(tmp_path: Path) -> None:
    module = runpy.run_path(str(ROOT / "experiments" / "results" / "overview.py"))
    assert [cells[0] for cells in module["rows"]("pong.md", "target")] == [
        "-20",
        "-10",
        "0",
        "10",
        "20",
    ]
    assert module["numbers"]("**75.7** (93, 67, 67)") == [75.7, 93, 67, 67]
    module["draw"](tmp_path / "drawn.png")
    assert 20_000 < (tmp_path / "drawn.png").stat().st_size < 150_000
    assert (ROOT / "experiments" / "results" / "overview.png").stat().st_size < 150_000
