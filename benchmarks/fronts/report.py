"""What was measured as JSON, as a table with its reading, and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.ticker import LogLocator

from benchmarks.fronts.comparison import Front, Point, fronts
from benchmarks.fronts.statistics import Interval
from figures.style import FAINT, INK, ORIGINS, PICK, grid_of_panels, number, save
from zoo.storage.files import write_json, write_text
from zoo.storage.places import with_end

LABELS = {
    "pick": "the search's pick",
    "finalists": "its first finalists, as many as of each rival",
    "rival": "**best rival on validation**",
    "whole": "whole network",
    "truncated": "network truncated at any node",
    "identity_adapters": "whole or truncated, identity adapters at its own cuts",
    "random_assembly": "random assembly",
    "self_stitch": "self-stitch: the pick's adapter inside one network",
    "random_adapters": "pick, random adapters",
    "random_early_blocks": "pick, all blocks but the last with random weights",
    "random_weights": "pick, all weights random (Full: from scratch)",
    "lora": "whole network with LoRA",
    "distillation": "truncated, taught by the best whole network",
    "taught_pick": "the search's pick, taught by the best whole network",
    "by_leep": "whole network by LEEP",
    "by_logme": "whole network by LogME",
    "by_naswot": "whole network by NASWOT",
    "by_home_accuracy": "whole network by accuracy at home",
}
UNITS = {"params": "parameters", "macs": "MACs of an image"}
MODES = {"probe": "probe", "freeze": "Freeze-Tuning", "full": "Full-Tuning"}


def write(points: Sequence[Point], path: Path, *, command: str, title: str, sizes: dict[str, list[int]]) -> str:
    """Writes ``path`` with .json, .md, .png and .svg; returns the readings.

    Args:
        points: Of complete splits.
        path: Without a suffix.
        command: That makes them.
        title: Zoo, data set and epochs in words.
        sizes: Of the whole networks, by unit.
    """
    pairs = list(dict.fromkeys((point.place.mode, point.place.unit) for point in points))
    found = {pair: fronts(points, *pair) for pair in pairs}
    seeds = sorted({point.place.seed for point in points})
    readings = [f"- {MODES[mode]}, {UNITS[unit]}: {reading(found[mode, unit])}" for mode, unit in pairs]
    lines = [
        f"# {title}",
        "",
        f"`{command}`",
        "",
        f"Splits {', '.join(map(str, seeds))}. Test accuracy in percent, mean",
    ]
    lines += ["[95 % of a bootstrap over splits and, in each, images]; choices on validation.", "", *readings]
    for mode, unit in pairs:
        lines += ["", f"## {MODES[mode]}, budgets in {UNITS[unit]}", "", *table(found[mode, unit])]
    write_text(with_end(path, ".md"), "\n".join(lines) + "\n")
    summary = [
        {"mode": mode, "unit": unit, "contender": name, **asdict(front)}
        for (mode, unit), by_name in found.items()
        for name, front in by_name.items()
    ]
    write_json(
        with_end(path, ".json"),
        {"command": command, "title": title, "points": [point.record() for point in points], "fronts": summary},
    )
    draw(found, path, sizes)
    return "\n".join(readings)


def reading(found: dict[str, Front]) -> str:
    """One line: where the pick is above the best rival, where below, and the area between the fronts."""
    rival = found.get("rival")
    if rival is None or not rival.differences:
        return "the pick has no rival at any budget."
    differences = rival.differences.values()
    above = sum(each.mean > 0 for each in differences)
    clear = sum(each.mean > 0 and each.is_clear for each in differences)
    below = sum(each.mean < 0 and each.is_clear for each in differences)
    area = f"; area between the fronts {signed(rival.area)} points" if rival.area else ""
    if all(each.num_splits == 1 for each in differences):
        counted = f"the pick is above the best rival at {above} of {len(differences)} budgets"
        return f"{counted}{area}; of one split, which says nothing of others: give --splits 5."
    return (
        f"the pick is above the best rival at {above} of {len(differences)} budgets, at {clear} of them with p < 0.05, "
        f"and below it with p < 0.05 at {below}{area}."
    )


def table(found: dict[str, Front]) -> list[str]:
    """A Markdown table, contenders down and budgets across; below each rival how far the pick is above it."""
    limits = sorted({limit for front in found.values() for limit in front.accuracies})
    lines = [f"| | {' | '.join(map(number, limits))} | area |", "|---|" + "---|" * (len(limits) + 1)]
    for name in sorted(found, key=list(LABELS).index):
        front = found[name]
        cells = [_plain(front.accuracies.get(limit)) for limit in limits]
        lines.append(f"| {LABELS[name]} | {' | '.join(cells)} | |")
        if front.differences:
            cells = [signed(front.differences.get(limit)) for limit in limits]
            told = "these minus the best rival" if name == "finalists" else "pick minus it"
            lines.append(f"| {told} | {' | '.join(cells)} | {signed(front.area)} |")
    return lines


def _plain(interval: Interval | None) -> str:
    return "" if interval is None else f"{100 * interval.mean:.1f} {_range(interval)}"


def _range(interval: Interval) -> str:
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def signed(interval: Interval | None) -> str:
    """A difference in points with its interval, the clear ones bold."""
    if interval is None:
        return ""
    mean = f"{100 * interval.mean:+.1f}"
    return f"{f'**{mean}**' if interval.is_clear else mean} {_range(interval)}"


def draw(found: dict[tuple[str, str], dict[str, Front]], path: Path, sizes: dict[str, list[int]]) -> Path:
    """The fronts of the pick, the best rival and what that is chosen from, one panel for each mode and unit."""
    figure, panels = grid_of_panels(len(found), width=5.2, height=3.9)
    shown = ("pick", "rival", "whole", "truncated", "identity_adapters", "random_assembly")
    colours = dict(zip(shown, (PICK, INK, *ORIGINS), strict=False))
    for axes, ((mode, unit), by_name) in zip(panels, found.items(), strict=True):
        for name in shown:
            if name not in by_name or not (accuracies := by_name[name].accuracies):
                continue
            means = [100 * each.mean for each in accuracies.values()]
            sides = zip(*((e.mean - e.low, e.high - e.mean) for e in accuracies.values()), strict=True)
            errors = [[100 * length for length in side] for side in sides]
            strong = name in ("pick", "rival")
            axes.errorbar(
                list(accuracies),
                means,
                yerr=errors if strong else None,
                color=colours[name],
                marker="o" if strong else ".",
                linewidth=2.0 if strong else 1.0,
                linestyle="-" if strong else (0, (4, 2)),
                capsize=3 if strong else 0,
                zorder=3 if strong else 2,
                label=LABELS[name].strip("*"),
            )
        for size in sizes.get(unit, []):
            axes.axvline(size, color=FAINT, linewidth=0.7, alpha=0.6, zorder=1)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.set_xlabel(f"budget in {UNITS[unit]}; lines: whole networks")
        axes.set_ylabel("test accuracy, %")
        axes.set_title(MODES[mode], loc="left")
        axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    handles = {}
    for axes in panels:
        handles.update({label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)})
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(len(panels), 2),
        frameon=False,
        fontsize=9,
    )
    return save(figure, with_end(path, ".png"))
