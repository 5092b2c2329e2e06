"""README and docs: every command is one that is accepted, every link leads somewhere, every path and name exists."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

from tests.docs.documents import DOCUMENTS, FENCE, PROJECT, blocks, commands


def test_documents_are_found() -> None:
    assert {document.name for document in DOCUMENTS} >= {"README.md", "CONTRIBUTING.md", "concepts.md", "tuning.md"}
    assert len(commands()) >= 30


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    folders = "|".join(path.name for path in PROJECT.iterdir() if path.is_dir())
    paths = re.findall(rf"`((?:{folders})/[\w./]+)`", FENCE.sub("", text))
    kept = [path for path in paths if "NAME" not in path and not path.startswith("runs/")]
    assert [path for path in kept if not (PROJECT / path).exists()] == []


def test_targets_extras_and_modules_exist() -> None:
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for command in commands():
        words = command.words
        if command.program == "make":
            assert set(words) <= targets, command
        elif command.program == "pip":
            (extra,) = re.findall(r"\.\[(.*)\]", " ".join(words))
            assert extra in setup["options.extras_require"], command
        elif words[0] == "-m" and words[1] != "pytest" and "NAME" not in words[1]:
            module = PROJECT / words[1].replace(".", "/")
            assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), command


def test_the_blocks_of_yaml_are_yaml() -> None:
    for document in DOCUMENTS:
        for body in blocks(document.read_text(), "yaml"):
            assert isinstance(yaml.safe_load(body), dict), document
