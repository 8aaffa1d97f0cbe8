"""Small tables and bar plots as plain text. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart; the first is aligned to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def bar_plot(bars: Sequence[tuple[str, int]], width: int = 40) -> str:
    """A horizontal bar for each (label, count); the longest is ``width`` characters."""
    most = max(count for _, count in bars) or 1
    label_width = max(len(label) for label, _ in bars)
    lines = []
    for label, count in bars:
        # At least an eighth for what is there at all.
        eighths = max(round(count * width * 8 / most), 1 if count else 0)
        bar = _FULL * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        lines.append(f"{label:>{label_width}}  {bar}{' ' if bar else ''}{count:,}")
    return "\n".join(lines)
