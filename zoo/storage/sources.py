"""The code that a stage result depends on, as digests: our own source files, a user's modules, the libraries' versions.

A result of other code is another result: the keys of the store hold what stands here. Digests are taken once a process,
since what a process has imported does not change with the files either.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("zoo", "datamodules", "tuning", "reassembly", "cloning")
"""All that may change a stage's result. One digest for all stages: too many misses after an edit are harmless."""

LIBRARIES = ("huozi", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "safetensors")


@cache
def own_code_digest() -> str:
    """Sha256 over names and contents of the source files of ``PACKAGES``."""
    return _digest(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))


@cache
def library_versions() -> dict[str, str | None]:
    """Versions of the libraries that compute; ``None`` for one that is not installed as a distribution."""
    return {name: installed_version(name) for name in LIBRARIES}


@cache
def module_digest(name: str) -> str | None:
    """Sha256 over a foreign module and all that it imports from beside itself; nothing is imported for it.

    Of an installed package (below ``site-packages``, or of Python itself) the module's own file and the version count.

    Args:
        name: dotted, of a user's factory or data module.

    Returns:
        ``None`` for modules of our own, which ``own_code_digest`` covers, and for what has no source file.
    """
    found = _find(name)
    if found is None or (name.partition(".")[0] in PACKAGES and found[0] == PROJECT):
        return None
    root, path = found
    if any(path.is_relative_to(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")):
        return hashlib.sha256(f"{_digest([path])} {installed_version(name.partition('.')[0])}".encode()).hexdigest()
    return _digest(_imported_beside(root, name, path))


def _find(name: str) -> tuple[Path, Path] | None:
    """The folder that a module's top-level package lies in, and the module's source file."""
    top, _, rest = name.partition(".")
    if top == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        return (Path(file).resolve().parent, Path(file).resolve()) if file else None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is None:
        is_file = spec.origin is not None and spec.origin.endswith(".py") and not rest
        return (Path(spec.origin).resolve().parent, Path(spec.origin).resolve()) if is_file else None
    for location in spec.submodule_search_locations:
        root = Path(location).resolve().parent
        if (path := _source(root, name)) is not None:
            return root, path
    return None


def _source(root: Path, name: str) -> Path | None:
    stem = root.joinpath(*name.split("."))
    return next((path for path in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py") if path.is_file()), None)


def _imported_beside(root: Path, name: str, path: Path) -> set[Path]:
    """A module's source file and all source files below ``root`` that are imported with it, directly or not."""
    found, waiting = set(), [path, *_sources(root, _with_packages(name))]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _sources(root, _imports(root, path))
    return found


def _sources(root: Path, names: Iterable[str]) -> list[Path]:
    return [path for name in names if (path := _source(root, name)) is not None]


def _imports(root: Path, path: Path) -> Iterator[str]:
    """Dotted names that a file imports, with the packages that they lie in."""
    package = path.relative_to(root).parent.parts
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return  # whoever imports it is told
    for node in ast.walk(tree):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names = [(*base, alias.name) for alias in node.names]
        for parts in names:
            yield from _with_packages(".".join(parts))


def _with_packages(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _digest(paths: Iterable[Path]) -> str:
    sha256 = hashlib.sha256()
    for path in sorted(paths):
        name = path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else Path(path.name)
        content = path.read_bytes()
        sha256.update(f"{name.as_posix()} {len(content)}\n".encode() + content)
    return sha256.hexdigest()


def installed_version(distribution: str) -> str | None:
    """Of a distribution; ``None`` where it is not installed as one, as a checkout that is run in its place."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
