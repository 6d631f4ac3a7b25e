"""The rows of `submodel bench` as a picture: quality against bytes, and against speed.

    python -m benchmarks.picture ROWS.jsonl OUT.svg [--metric perplexity] [--note TEXT]

A point is a contender, its bars are 95% intervals, its colour says which program ran it, filled where it is a
sub-model. Without --metric, the first quality metric among the rows; of several data sets the last.
"""

import argparse
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from submodel.bench.table import line_of
from submodel.tasks.rows import Row, read_rows

COLOURS = {"transformers": "#7f7f7f", "submodel": "#0b6fb8", "llama.cpp": "#d95f02"}
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 420, 330, 62, 40, 74
_LETTER, _LINE = 7, 14  # of a label
Point = tuple[tuple[str, str, str], Row, Row]
"""(line, row of the x axis, row of the y axis)."""


def points(rows: Sequence[Row], x: str, y: str) -> list[Point]:
    """The contenders that have both metrics; of two rows of the same thing the last counts."""
    found = {(line_of(row), row.metric): row for row in rows}
    lines = dict.fromkeys(line_of(row) for row in rows)
    return [(line, found[line, x], found[line, y]) for line in lines if (line, x) in found and (line, y) in found]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about `count` of them."""
    rough = (high - low) / count
    unit = 10 ** math.floor(math.log10(rough))
    step = min((unit * m for m in (1, 2, 5, 10)), key=lambda s: abs(s - rough))
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


class _Axis:
    """Values -> places on the page, with room around them."""

    def __init__(self, rows: Sequence[Row], scale: float, start: float, end: float, zero: bool):
        low, high = min(row.low for row in rows) * scale, max(row.high for row in rows) * scale
        room = 0.08 * (high - low or abs(high) or 1)
        self.low, self.high = 0.0 if zero else low - room, high + room * (3 if zero else 1)
        self.scale, self._start, self._end = scale, start, end

    def at(self, value: float) -> float:
        share = (value * self.scale - self.low) / (self.high - self.low)
        return self._start + share * (self._end - self._start)


def _panel(found: Sequence[Point], left: float, title: str, scale: float, y_scale: float) -> list[str]:
    bottom = _TOP + _HEIGHT
    x = _Axis([one for _, one, _ in found], scale, left, left + _WIDTH, zero=True)
    y = _Axis([one for _, _, one in found], y_scale, bottom, _TOP, zero=False)
    out = [f'<rect x="{left}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>']
    for value in ticks(x.low, x.high):
        at = x.at(value / scale)
        out.append(f'<path d="M{at:.1f} {bottom}v5" stroke="#999"/>')
        out.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>')
    for value in ticks(y.low, y.high):
        at = y.at(value / y_scale)
        out.append(f'<path d="M{left} {at:.1f}h{_WIDTH}" stroke="#eee"/>')
        out.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    out.append(f'<text x="{left + _WIDTH / 2}" y="{bottom + 36}" text-anchor="middle">{escape(title)}</text>')
    taken: list[tuple[float, float, float]] = []
    for (name, program, form), across, up in found:
        colour, cx, cy = COLOURS[program], x.at(across.value), y.at(up.value)
        bars = (
            f"M{x.at(across.low):.1f} {cy:.1f}H{x.at(across.high):.1f}M{cx:.1f} {y.at(up.low):.1f}V{y.at(up.high):.1f}"
        )
        out.append(f'<path d="{bars}" stroke="{colour}" stroke-opacity="0.4"/>')
        fill = "white" if name == "dense" else colour
        out.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="4.5" fill="{fill}" stroke="{colour}" stroke-width="1.6"/>')
        label = form if name == "dense" else f"{name} {form}"
        at = _free(cx + 8, cy - 6, len(label) * _LETTER, left + _WIDTH, taken)
        out.append(f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" fill="{colour}">{escape(label)}</text>')
    return out


def _free(
    x: float, y: float, width: float, right: float, taken: list[tuple[float, float, float]]
) -> tuple[float, float]:
    """Where a label may stand, near (x, y), left of `right`, over none of `taken` (x, y, width); it is taken then."""
    x, at = min(x, right - width), y
    for line in range(12):
        at = y + (line + 1) // 2 * (_LINE if line % 2 else -_LINE)
        if not any(abs(at - v) < _LINE and x < u + w and u < x + width for u, v, w in taken):
            break
    taken.append((x, at, width))
    return x, at


def picture(rows: Sequence[Row], metric: str, note: str = "") -> str:
    """One SVG with two panels. Raises ValueError when no contender has this metric beside its size and speed."""
    data = [row.data for row in rows if row.metric == metric][-1:]
    rows = [row for row in rows if row.metric != metric or row.data == data[0]]
    size, speed = points(rows, "weight_bytes", metric), points(rows, "decode_tokens_s", metric)
    if not size or not speed:
        raise ValueError(f"no row of {metric} beside those of bench: run submodel bench with --task")
    y_scale = 1 if metric == "perplexity" else 100
    last, quality = speed[-1][1], speed[-1][2]
    better, unit, counted = ("lower", "", "tokens") if metric == "perplexity" else ("higher", " %", "problems")
    sub = f"{metric}{unit} ({better} is better), {quality.n:,} {counted} of {Path(quality.data['name']).name}"
    width, height = _LEFT + 2 * _WIDTH + _GAP + 40, _TOP + _HEIGHT + 92
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="{_TOP - 14}" font-size="14">{escape(sub)}</text>',
        *_panel(size, _LEFT, "weights, MB", 1e-6, y_scale),
        *_panel(speed, _LEFT + _WIDTH + _GAP, f"decoding, tokens/s, {last.settings['threads']} threads", 1, y_scale),
    ]
    at = float(_LEFT)
    for program, colour in COLOURS.items():
        out.append(
            f'<circle cx="{at + 5}" cy="{height - 30}" r="4.5" fill="white" stroke="{colour}" stroke-width="1.6"/>'
        )
        out.append(f'<text x="{at + 14}" y="{height - 26}">{program}</text>')
        at += 110
    out.append(
        f'<text x="{at}" y="{height - 26}">filled: a sub-model; hollow: the dense base; bars: 95% intervals</text>'
    )
    under = " ".join(part for part in (last.machine + ".", note) if part)
    out.append(f'<text x="{_LEFT}" y="{height - 8}" fill="#555">{escape(under)}</text>')
    return "\n".join([*out, "</svg>", ""])


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("rows", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--metric")
    p.add_argument("--note", default="", help="printed below, such as where the weights come from")
    args = p.parse_args()
    rows = read_rows(args.rows)
    metric = args.metric or next((row.metric for row in rows if row.task != "bench"), "perplexity")
    args.out.write_text(picture(rows, metric, args.note))


if __name__ == "__main__":
    main()
