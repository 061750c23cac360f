"""The table and the chart of docs/performance.md.

Owns how figures are shown; knows nothing of how they were measured.
"""

import html

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
CHART = "performance.svg"
COLOURS = {
    "ext4": "#9e9e9e", "passthrough": "#64b5f6", "gocryptfs": "#e57373", "encfs": "#ffb74d",
    "cryfs": "#ba68c8", "strongroom": "#2e7d32",
}


def table(medians, memory, systems):
    """Markdown: seconds on ext4, then times as long on each other, then how strongroom compares."""
    others = [name for name in systems if name != "ext4"]
    lines = [
        "| workload | ext4, s | " + " | ".join(others) + " | gocryptfs ÷ strongroom | strongroom ÷ passthrough |",
        "|---|" + "--:|" * (len(others) + 3),
    ]
    for workload, of in medians.items():
        base = of.get("ext4")
        cells = [f"{base:.3f}" if base else ""]
        cells += [f"{of[name] / base:.2f}" if base and name in of else "-" for name in others]
        cells.append(quotient(of, "gocryptfs", "strongroom"))
        cells.append(quotient(of, "strongroom", "passthrough"))
        lines.append(f"| {workload} | " + " | ".join(cells) + " |")
    for what, words in [("peak", "memory, peak"), ("idle", "memory, afterwards")]:
        cells = [f"{memory[name][what] / (1 << 20):.0f} MiB" if name in memory else "-" for name in others]
        lines.append(f"| {words} | | " + " | ".join(cells) + " | | |")
    return "\n".join(lines)


def quotient(of, above, below):
    return f"{of[above] / of[below]:.2f}" if above in of and below in of else "-"


def chart(medians, systems):
    """An SVG: how many times as long as ext4 each takes, on a logarithmic scale."""
    import math

    others = [name for name in systems if name != "ext4"]
    bar, gap, left, width = 7, 8, 300, 500
    rows = [(workload, of) for workload, of in medians.items() if "ext4" in of]
    height = 60 + len(rows) * (bar * len(others) + gap)
    ratios = [of[name] / of["ext4"] for _, of in rows for name in others if name in of]
    top = max(10.0, *ratios) if ratios else 10.0

    def x(ratio):
        return left + width * math.log10(max(ratio, 0.5) / 0.5) / math.log10(top / 0.5)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{left + width + 60}" height="{height}" fill="white"/>',
    ]
    for at, name in enumerate(others):
        parts.append(f'<rect x="{left + at * 110}" y="8" width="10" height="10" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{left + at * 110 + 14}" y="17">{name}</text>')
    y = 40
    for workload, of in rows:
        middle = y + bar * len(others) / 2 + 4
        parts.append(f'<text x="{left - 8}" y="{middle:.0f}" text-anchor="end">{html.escape(workload)}</text>')
        for name in others:
            if name in of:
                end = x(of[name] / of["ext4"])
                parts.append(
                    f'<rect x="{left}" y="{y}" width="{max(end - left, 1):.1f}" height="{bar - 1}" '
                    f'fill="{COLOURS[name]}"/>'
                )
            y += bar
        y += gap
    for mark in [1, 2, 5, 10, 20, 50, 100]:
        if mark <= top:
            parts.append(f'<line x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="34" y2="{height - 18}" stroke="#bbb"/>')
            parts.append(f'<text x="{x(mark):.1f}" y="{height - 5}" text-anchor="middle">{mark}×</text>')
    parts.append("</svg>\n")
    return "\n".join(parts)


def write(docs, medians, figures, where, systems):
    """Puts the table between its marks in performance.md, and the chart beside it."""
    path = docs / "performance.md"
    text = path.read_text()
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    body = f"\n{where}\n\n![times as long as ext4]({CHART})\n\n{figures}\n"
    path.write_text(before + BEGIN + body + END + after)
    (docs / CHART).write_text(chart(medians, systems))
