"""Folders of image files, listed without reading the images."""

from __future__ import annotations

import logging
import os
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image

from datamodules.listing_cache import ListingCache
from datamodules.manifest import printable
from zoo.errors import UserError, require_each

log = logging.getLogger(__name__)

# What operating systems, editors and network drives leave between images, beside names that begin with a dot.
_LEFT_BEHIND = {
    *("__macosx", "@eadir", "#recycle", "lost+found", "$recycle.bin", "system volume information", "__pycache__"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
}
# Formats of which Pillow knows the head alone, and one for which it starts an interpreter of programs (Ghostscript).
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@dataclass
class Listing:
    """Image files of labelled folders, and what lies between them.

    Attributes:
        names: Paths of images below the root, with `/`.
        labels: Of each.
        files: Left out: no images, hidden, or in no folder of a class.
        folders: Left out with all they hold.
    """

    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def tell(self, root: Path) -> None:
        """Says in one line what was left out, if anything was."""
        parts = []
        if self.files:
            parts.append(f"{len(self.files)} files of no class, hidden or no images to Pillow ({examples(self.files)})")
        if self.folders:
            parts.append(f"{len(self.folders)} folders ({examples(self.folders)})")
        if parts:
            log.warning("images of %s: %d read; left out: %s", printable(str(root)), len(self.names), ", ".join(parts))


def image_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    return _formats()[0]


@lru_cache(maxsize=1)
def _formats() -> tuple[tuple[str, ...], frozenset[str]]:
    Image.init()
    # The most frequent first: of some others Pillow knows only by trying, which takes as long as a small image.
    formats = tuple(dict.fromkeys(("JPEG", "PNG", *(name for name in Image.ID if name not in _NOT_READ))))
    return formats, frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in formats)


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is hidden, or none of the user's."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def examples(names: Sequence[str], count: int = 3) -> str:
    """The first names, and dots for the others."""
    return ", ".join([*map(printable, names[:count]), *(["..."] if len(names) > count else [])])


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What a folder holds, by name: the order of the file system does not count.

    Raises:
        UserError: It cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{printable(str(folder))} cannot be listed ({error.strerror})") from error


def subfolders(folder: Path) -> tuple[str, ...]:
    """Names of the sub-folders, sorted, without those that nobody made on purpose; links are followed."""
    return tuple(entry.name for entry in entries(folder) if _is_folder(entry) and not is_left_behind(entry.name))


def has_images(folder: Path) -> bool:
    """Whether there are images in a folder itself."""
    return any(_is_image(entry) for entry in entries(folder) if not is_left_behind(entry.name))


def class_folders(folder: Path, ignored: str = "") -> tuple[str, ...]:
    """Names of the sub-folders, sorted, but for the one ignored.

    Raises:
        UserError: Fewer than two, or two that differ in capitals alone.
    """
    names = tuple(name for name in subfolders(folder) if name != ignored)
    shown = printable(str(folder))
    if len(names) < 2:
        deeper = subfolders(folder / names[0]) if names else ()
        found = f"the folder {printable(names[0])} alone" if names else "no folder"
        found += ", and images without a class" if has_images(folder) else ""
        way = f"; if {printable(names[0])} holds them ({examples(deeper)}), give that folder" if deeper else ""
        raise UserError(f"{shown} holds {found}; expected a folder of images per class, of two classes at least{way}")
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(plain(name), name)
        if other != name:
            raise UserError(f"{shown} holds {printable(other)!r} and {printable(name)!r}: two classes of one name")
    return names


def labelled_files(root: Path, folder: str, class_names: Sequence[str], listing: Listing, ignored: str = "") -> int:
    """Adds the images in the class folders of `root/folder`, at any depth, to a listing; returns their number.

    Raises:
        UserError: Class folders that are not these, one without images, a link to nothing or to a folder around it.
    """
    given = class_folders(root / folder, ignored)
    if given != tuple(class_names):
        raise UserError(f"{printable(str(root / folder))} {class_difference(given, class_names)}")
    count = len(listing.names)
    for entry in entries(root / folder):
        place = f"{folder}/{entry.name}".lstrip("/")
        if entry.name in class_names or (ignored and entry.name == ignored):
            continue
        if not _is_folder(entry):
            listing.files.append(place)
        else:
            listing.folders.append(place)
    cache, labels = ListingCache(root), {name: label for label, name in enumerate(class_names)}

    def add(name: str) -> None:
        before, left_out = len(listing.names), len(listing.files)
        _class_files(root, f"{folder}/{name}".lstrip("/"), listing, cache)
        if len(listing.names) == before:
            files = listing.files[left_out:]
            told = f", but {len(files)} other files ({examples(files)})" if files else ""
            raise UserError(
                f"{printable(str(root / folder / name))} holds no image that Pillow reads{told}; "
                "put images into the folder, convert them, or remove it"
            )
        listing.labels += [labels[name]] * (len(listing.names) - before)

    require_each(class_names, add, "class folders cannot be used")
    cache.save()
    return len(listing.names) - count


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, at any depth, by name; what is hidden or no image to Pillow is left out.

    Raises:
        UserError: It cannot be listed; a link to nothing or to a folder around it.
    """
    listing = Listing()
    _walk(folder, ".", _identities(folder), listing)
    return [folder / name for name in listing.names]


def _class_files(root: Path, place: str, listing: Listing, cache: ListingCache) -> None:
    """Adds what lies below one folder of a class, out of the cache where nothing there has changed."""
    found = cache.get(place)
    if found is None:
        part, visited = Listing(), []
        _walk(root, place, _identities(root / place), part, lambda name: visited.append((name, cache.stamp(name))))
        found = {"names": part.names, "files": part.files, "folders": part.folders}
        others = [name for name in part.files if not is_left_behind(name.rpartition("/")[2])]
        if all(map(_is_named, part.names)) and not others:  # else files were looked into, and they may change
            cache.put(place, visited, **found)
    listing.names += found["names"]
    listing.files += found["files"]
    listing.folders += found["folders"]


def _walk(
    root: Path,
    place: str,
    above: tuple[tuple[int, int], ...],
    listing: Listing,
    visit: Callable[[str], None] = lambda place: None,
) -> None:
    visit(place)
    for entry in entries(root / place):
        name = f"{place}/{entry.name}"
        if _is_folder(entry):
            status = entry.stat()
            here = (status.st_dev, status.st_ino)
            if here in above:
                raise UserError(f"{printable(entry.path)} is a link to a folder that it lies in; remove it")
            if is_left_behind(entry.name):
                listing.folders.append(name)
            else:
                _walk(root, name, (*above, here), listing, visit)
        elif not is_left_behind(entry.name) and _is_image(entry):
            listing.names.append(name)
        else:
            listing.files.append(name)


def _identities(folder: Path) -> tuple[tuple[int, int], ...]:
    """Device and number of a folder and of all above it."""
    return tuple((status.st_dev, status.st_ino) for status in map(os.stat, (folder, *folder.resolve().parents)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # links in a circle
        raise UserError(f"{printable(entry.path)} cannot be followed ({error.strerror}); remove it") from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    """By its suffix, or by its head where the suffix is none of an image."""
    is_named = _is_named(entry.name)
    if not entry.is_file():  # a folder, a pipe, a link to nothing
        if is_named and entry.is_symlink() and not os.path.exists(entry.path):
            raise UserError(f"{printable(entry.path)} is a link to nothing; mend or remove it")
        return False
    return is_named or _has_head_of_an_image(entry.path, image_formats())


def _is_named(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _formats()[1]


def _has_head_of_an_image(path: str, formats: Sequence[str]) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=formats):
                return True
    except Image.DecompressionBombError:
        return True  # an image, refused by name when it is read
    except Exception:  # noqa: BLE001 - whatever a reader says of a file that is none of its own
        return False


def plain(name: str) -> str:
    """A name without what people and file systems vary: capitals, Unicode form, blanks around."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def class_difference(given: Sequence[str], expected: Sequence[str]) -> str:
    """How a split's classes differ from those of the training images, as the end of a sentence, and what to do."""
    more, fewer = (sorted({*mine} - {*theirs}) for mine, theirs in ((given, expected), (expected, given)))
    by_plain = {plain(name): name for name in fewer}
    alike = next(((name, by_plain[plain(name)]) for name in more if plain(name) in by_plain), None)
    told = [f"has classes that the training images lack: {examples(more, 5)}"] if more else []
    told += [f"lacks classes of the training images: {examples(fewer, 5)}"] if fewer else []
    told = told or ["has the classes in another order"]
    hint = f" (but for capitals or Unicode forms {printable(alike[0])!r} is {printable(alike[1])!r})" if alike else ""
    return f"{' and '.join(told)}{hint}; give every split the same classes"
