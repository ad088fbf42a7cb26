#!/usr/bin/env python3
"""Draws docs/measured.svg from the table of docs/measured.md: time and size of int8 models over those of the float models.

usage: measured_picture.py
"""
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
ROW, LEFT, WIDTH, TOP = 24, 170, 300, 58
OURS, PEER, INK, LINE = "#1f6feb", "#b8bfc8", "#3d444d", "#d8dee4"


def number(text):
    """The number of a cell; None for a dash."""
    try:
        return float(text)
    except ValueError:
        return None


def rows():
    """(model, time, size, time of the peer, size of the peer) of each row of the table."""
    table = (DOCS / "measured.md").read_text().split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    for line in table:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        peer = [part.strip() for part in cells[5].split("·")]
        yield cells[0], number(cells[4]), number(cells[1]), number(peer[3]), number(peer[0])


def bar(x, y, share, colour, height):
    width = min(share, 1.5) / 1.5 * WIDTH
    return f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def main():
    models = list(rows())
    height = TOP + ROW * len(models) + 12
    total = LEFT + 2 * (WIDTH + 70)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{total}" height="{height}" fill="#ffffff"/>',
        f'<rect x="{LEFT}" y="12" width="12" height="12" fill="{OURS}"/><text x="{LEFT + 18}" y="22">onnx-shrink --int8 --data</text>',
        f'<rect x="{LEFT + 190}" y="12" width="12" height="12" fill="{PEER}"/>',
        f'<text x="{LEFT + 208}" y="22">onnxruntime.quantization.quantize_static</text>',
    ]
    for place, title in ((LEFT, "time of a run over the float model's"), (LEFT + WIDTH + 70, "bytes over the float model's")):
        one = place + WIDTH / 1.5
        out.append(f'<text x="{place}" y="46" font-weight="bold">{title}</text>')
        out.append(f'<line x1="{one}" y1="{TOP - 6}" x2="{one}" y2="{height - 8}" stroke="{LINE}"/>')
        out.append(f'<text x="{one}" y="{TOP - 8}" text-anchor="middle" font-size="10">1</text>')
    for index, (name, time, size, peer_time, peer_size) in enumerate(models):
        y = TOP + ROW * index
        out.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{name}</text>')
        for x, ours, peer in ((LEFT, time, peer_time), (LEFT + WIDTH + 70, size, peer_size)):
            out.append(bar(x, y + 2, ours, OURS, 9))
            out.append(f'<text x="{x + min(ours, 1.5) / 1.5 * WIDTH + 4:.1f}" y="{y + 10}" font-size="10">{ours:.2f}</text>')
            if peer is not None:
                out.append(bar(x, y + 12, peer, PEER, 6))
    out.append("</svg>")
    (DOCS / "measured.svg").write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
