"""README and docs name what is there: files, headings, settings, commands with their options, extras of the package."""

import re
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from pipeline.__main__ import app
from pipeline.params import Params
from tests.clones import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TRACKED = re.compile(r"(?:pipeline|tests|docs|benchmarks|examples)(?:/[\w.-]+)+\.(?:py|md|ipynb)\b")
SECTIONS = {name: set(field.annotation.model_fields) for name, field in Params.model_fields.items()}  # type: ignore[union-attr]
SETTING = re.compile(rf"(?<![\w./])({'|'.join(SECTIONS)})\.(\w+)")
NO_SETTINGS = {"py", "md", "json", "csv"}  # head.py is a file
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def code_of(text: str) -> str:
    """What stands in backticks, without what programs print (fences marked as text)."""
    fences = [content for language, content in FENCE.findall(text) if language not in ("text", "math", "mermaid")]
    return "\n".join([*fences, *re.findall(r"`([^`\n]+)`", FENCE.sub("", text))])


def options_in(rest: str) -> list[str]:
    """The long options of a command line, before any comment."""
    return re.findall(r"(?<![\w-])--([a-z][a-z-]*)", rest.split(" #")[0])


@cache
def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, page: Path) -> list[str]:
    broken = []
    for target in LINK.findall(FENCE.sub("", text)):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if "://" not in target and not (file.exists() and (not anchor or anchor in anchors_of(file))):
            broken.append(target)
    return broken


def missing_files(text: str, page: Path) -> list[str]:
    return [path for path in TRACKED.findall(text) if not (ROOT / path).is_file()]


def unknown_settings(text: str, page: Path) -> list[str]:
    named = [(section, key) for section, key in SETTING.findall(code_of(text)) if key not in NO_SETTINGS]
    return [f"{section}.{key}" for section, key in named if key not in SECTIONS[section]]


def unknown_commands(text: str, page: Path) -> list[str]:
    unknown = []
    for name, rest in re.findall(r"-m pipeline ([a-z][a-z-]*)([^\n]*)", code_of(text)):
        known = [option for parameter in COMMANDS[name].params for option in parameter.opts] if name in COMMANDS else None
        unknown += [name] if known is None else [f"{name} --{one}" for one in options_in(rest) if f"--{one}" not in known]
    return unknown


def unknown_options_of_benchmarks(text: str, page: Path) -> list[str]:
    unknown = []
    for path, rest in re.findall(r"python (benchmarks/\w+\.py)([^\n]*)", code_of(text)):
        source = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).is_file() else ""
        own = re.findall(r"\b(\w+)=\{", source.rpartition("run_command(")[2])
        unknown += [f"{path} --{option}" for option in options_in(rest) if option.replace("-", "_") not in own]
    return unknown


def unknown_extras(text: str, page: Path) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [name for name in re.findall(r"--extra (\w+)", text) if name not in project["optional-dependencies"]]


# What looks for mistakes -> a page with just one of that kind, amid what is right.
FINDERS: dict[Callable[[str, Path], list[str]], str] = {
    broken_links: "[a](../README.md), [b](method.md#label-issues), [c](method.md#nothing)",
    missing_files: "`tests/test_docs.py` and `pipeline/nowhere.py`",
    unknown_settings: "`head.type`, `pipeline/models/head.py`, `head.kind`\n```text\nhead.said\n```",
    unknown_commands: "`python -m pipeline predict a.jpg --format csv --fast`",
    unknown_options_of_benchmarks: "```sh\npython benchmarks/ood.py --photos 2 --speed 3  # --comment\n```",
    unknown_extras: "`uv sync --inexact --extra lite --extra heavy`",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize("find", FINDERS, ids=lambda find: find.__name__)
def test_a_page_names_what_is_there(find: Callable[[str, Path], list[str]], page: Path) -> None:
    assert find(page.read_text(encoding="utf-8"), page) == []


@pytest.mark.parametrize("find", FINDERS, ids=lambda find: find.__name__)
def test_a_mistake_is_found(find: Callable[[str, Path], list[str]]) -> None:
    assert len(find(FINDERS[find], ROOT / "docs/page.md")) == 1


def test_every_page_is_linked_from_readme_or_from_another_page() -> None:
    linked = {(page.parent / target.split("#")[0]).resolve() for page in PAGES for target in LINK.findall(page.read_text())}
    assert [page.name for page in PAGES[1:] if page not in linked] == []
