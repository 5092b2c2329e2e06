"""The preprocessing that lies beside a file of weights, as the libraries of Hugging Face and timm write it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.storage.files import read_json

_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_SHORTER_SIDE = ("CLIP", "ConvNext")  # image processors of which a size without sides is that of the shorter one
_SQUASHED_FROM = 384  # of ConvNext's: from this size on nothing is cut off


def stored_input(folder: Path) -> dict[str, Any]:
    """Fields of `InputSpec` out of `preprocessor_config.json` (transformers) or `config.json` (timm); empty without.

    Raises:
        UserError: `preprocessor_config.json` is damaged, or says what `InputSpec` cannot say.
    """
    for name, read in (("preprocessor_config.json", _of_transformers), ("config.json", _of_timm)):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = read_json(path)
        except UserError:
            if read is _of_timm:  # a name that anything may have
                continue
            raise
        if not isinstance(content, Mapping):
            continue
        try:
            found = read(content)
        except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
            raise UserError(f"{path}: its preprocessing is not understood ({error}); give `input` in full") from error
        if found:
            return found
    return {}


def _of_timm(content: Mapping[str, Any]) -> dict[str, Any]:
    published = content.get("pretrained_cfg")
    if not isinstance(published, Mapping):
        return {}
    channels, height, width = published["input_size"]
    names = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    found = {name: published[name] for name in names if name in published}
    return {"channels": channels, "height": height, "width": width, **found}


def _of_transformers(content: Mapping[str, Any]) -> dict[str, Any]:
    if "image_mean" not in content and "size" not in content and "crop_size" not in content:
        return {}
    mean, std = content.get("image_mean", [0.5] * 3), content.get("image_std", [0.5] * 3)
    if not content.get("do_normalize", True):
        mean, std = [0.0] * len(mean), [1.0] * len(mean)
    white = 255 * (content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1)
    offset = 1 if content.get("rescale_offset") else 0
    resample = content.get("resample", 2)
    if resample not in _RESAMPLE:
        raise ValueError(f"resample {json.dumps(resample)} is none of {', '.join(map(str, _RESAMPLE))}")
    return {
        "channels": len(mean),
        "mean": [_tidy((value + offset) / white) for value in mean],
        "std": [_tidy(value / white) for value in std],
        "interpolation": _RESAMPLE[resample],
        **_geometry(content),
    }


def _geometry(content: Mapping[str, Any]) -> dict[str, Any]:
    """Size, `crop_pct` and `crop_mode`."""
    kind = str(content.get("image_processor_type", content.get("feature_extractor_type", "")))
    size, resizes = content.get("size"), content.get("do_resize", True)
    shorter = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if isinstance(size, int) and any(name in kind for name in _SHORTER_SIDE):
        shorter = size
    if "ConvNext" in kind and shorter is not None:
        share = content.get("crop_pct") or 224 / 256
        whole = shorter >= _SQUASHED_FROM
        mode = {"crop_pct": 1.0, "crop_mode": "squash"} if whole else {"crop_pct": share, "crop_mode": "center"}
        return {"height": shorter, "width": shorter, **mode}
    resized = _sides(size) if shorter is None and size is not None else None
    if content.get("do_center_crop", False):
        height, width = _sides(content["crop_size"])
        if not resizes or (shorter is None and resized is None):
            raise ValueError("images are cut and not resized")
        crop_pct = min(height, width) / shorter if shorter is not None else height / resized[0]
        return {
            "height": height,
            "width": width,
            "crop_pct": crop_pct,
            "crop_mode": "center" if shorter is not None else "squash",
        }
    if not resizes or (shorter is None and resized is None):
        raise ValueError("images keep their size")
    height, width = resized or (shorter, shorter)
    return {"height": height, "width": width, "crop_pct": 1.0, "crop_mode": "center" if resized is None else "squash"}


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    height, width = size if isinstance(size, Sequence) else (size, size)
    return int(height), int(width)


def _tidy(value: float) -> float:
    return round(value, 12)
