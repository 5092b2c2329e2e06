"""Pieces of a self-contained HTML page: every text escaped, nothing loaded, one script, known by its digest."""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FILTER, BREAK = "filter rows", "\n"
STYLE = """
:root { color-scheme: light; --ink: #222; --faint: #777; --line: #ddd; --pick: #fdeee3; }
body { font: 15px/1.45 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", sans-serif;
  color: var(--ink); margin: 2rem auto; max-width: 76rem; padding: 0 1.2rem; background: #fff; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.note, figcaption, caption { color: var(--faint); font-size: .88rem; text-align: left; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; max-height: 40rem; overflow-y: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: left; vertical-align: top;
  overflow-wrap: break-word; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead th { position: sticky; top: 0; background: #fff; border-bottom: 2px solid var(--ink); }
table.sortable thead th button { all: unset; cursor: pointer; font-weight: 600; }
table.sortable thead th button:focus-visible { outline: 2px solid #0072b2; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
tr.picked td { background: var(--pick); font-weight: 600; }
input.filter { font: inherit; padding: .2rem .5rem; margin: .3rem 0; width: 22rem; max-width: 100%; }
"""

SCRIPT = """
"use strict";
function key(row, index) {
  const text = row.cells[index].dataset.value ?? row.cells[index].textContent;
  const number = text.trim() === "" ? NaN : Number(text);
  return { text, number, missing: text.trim() === "" || text === "nan" };
}
function compare(a, b) {
  if (!Number.isNaN(a.number) && !Number.isNaN(b.number)) return a.number - b.number;
  return a.text.localeCompare(b.text, undefined, { numeric: true });
}
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, index) => head.querySelector("button").addEventListener("click", () => {
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const rows = [...body.rows].map((row) => [key(row, index), row]);
    rows.sort(([a], [b]) => a.missing - b.missing || (order === "ascending" ? compare(a, b) : compare(b, a)));
    body.append(...rows.map(([, row]) => row));
  }));
  const filter = table.parentElement.previousElementSibling;
  if (filter?.matches("input.filter")) filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole page. Nothing is loaded from anywhere, and no script but ours runs, whatever the texts hold."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title><style>{STYLE}</style></head><body>",
            *body,
            f"<script>{SCRIPT}</script></body></html>",
            "",
        ]
    )


def escaped(value: Any) -> str:
    """Text of a page: no markup, nothing that is not printed."""
    text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(value))
    return html.escape(text, quote=True)


def shown(value: Any) -> str:
    """A value as one reads it: numbers in few digits, lists in one line; not yet escaped."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(item)}" for key, item in value.items()) or "none"
    return str(value)


def section(title: str, *parts: str) -> str:
    """A heading with what stands below it; nothing where there is nothing."""
    there = [part for part in parts if part]
    return "\n".join([f"<section><h2>{escaped(title)}</h2>", *there, "</section>"]) if there else ""


def note(text: str) -> str:
    """A small line."""
    return f'<p class="note">{escaped(text)}</p>'


def facts(rows: Iterable[tuple[str, Any]]) -> str:
    """Names and values, one below the other."""
    lines = [f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(shown(value))}</td></tr>' for name, value in rows]
    return f"<table><tbody>{''.join(lines)}</tbody></table>" if lines else ""


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str = "",
    sortable: bool = False,
    picked: Sequence[bool] = (),
    numeric: Sequence[str] = (),
) -> str:
    """A table; a sortable one has a button in every head and a field that filters its rows.

    Args:
        columns: Heads.
        rows: Of values; a pair (value, key) is shown as the one and sorted by the other.
        caption: Below the heading.
        sortable: By a click on the heads.
        picked: Which rows stand out.
        numeric: Columns whose values are aligned to the right, and first sorted from the largest.
    """
    kinds = [' class="number"' if name in numeric else "" for name in columns]
    heads = [
        f'<th scope="col"{kind}><button type="button">{escaped(name)}</button></th>'
        if sortable
        else f'<th scope="col"{kind}>{escaped(name)}</th>'
        for name, kind in zip(columns, kinds, strict=True)
    ]
    lines = []
    for index, row in enumerate(rows):
        cells = []
        for value, kind in zip(row, kinds, strict=True):
            value, key = value if isinstance(value, tuple) else (value, None)
            data = "" if key is None else f' data-value="{escaped(key)}"'
            cells.append(f"<td{kind}{data}>{escaped(shown(value))}</td>")
        mark = ' class="picked"' if index < len(picked) and picked[index] else ""
        lines.append(f"<tr{mark}>{''.join(cells)}</tr>")
    above = f"<caption>{escaped(caption)}</caption>" if caption else ""
    kind = ' class="sortable"' if sortable else ""
    field = f'<input class="filter" type="search" placeholder="{FILTER}" aria-label="{FILTER}">' if sortable else ""
    head = f"<thead><tr>{''.join(heads)}</tr></thead>"
    return f'{field}<div class="scroll"><table{kind}>{above}{head}<tbody>{BREAK.join(lines)}</tbody></table></div>'


def figure(path: Path, name: str, caption: str = "") -> str:
    """A picture inside the page, as an image: what an SVG holds is drawn, and nothing of it runs."""
    kind = "image/svg+xml" if path.suffix == ".svg" else "image/png"
    data = base64.b64encode(path.read_bytes()).decode()
    told = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{escaped(name)}" src="data:{kind};base64,{data}">{told}</figure>'
