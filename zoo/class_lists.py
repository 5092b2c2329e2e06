"""Names of the outputs of networks that were trained on a published data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoo.errors import UserError

LISTS = ("imagenet-1k",)


def class_list(name: str, where: str) -> tuple[str, ...]:
    """The classes that a zoo names by one word, as `dataset=imagenet` names them.

    Raises:
        UserError: No such list.
    """
    if name not in LISTS:
        raise UserError(f"{where}: classes: got {name!r}, expected a list of names, or one of {', '.join(LISTS)}")
    from timm.data import ImageNetInfo  # heavy

    info = ImageNetInfo()
    return readable(info.label_names(), info.label_descriptions(as_dict=True))


def readable(synsets: Sequence[str], described: Mapping[str, str]) -> tuple[str, ...]:
    """The first word of each synset's description; where two have the same, the synset behind it."""
    words = [described.get(synset, synset).split(",")[0].strip() for synset in synsets]
    return tuple(
        word if words.count(word) == 1 else f"{word} ({synset})" for word, synset in zip(words, synsets, strict=True)
    )
