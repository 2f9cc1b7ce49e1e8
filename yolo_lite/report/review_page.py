"""Mistakes as one HTML page: nothing is fetched, nothing runs, all text is escaped, its size is bounded."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import cv2
import numpy as np

from yolo_lite.report.drawing import BLACK, Colour

Outline = tuple[np.ndarray, Colour, int]  # a box xyxy [4] in pixels of the image, its colour, how wide its lines are

SIDE = 320  # pixels of a crop
LONGEST = 160  # letters of a text that users have written

STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --card: #f5f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171b; --ink: #e6e9ed; --soft: #9aa4af; --line: #343b43; --card: #1e2329 } }
body { margin: 0 auto; max-width: 90rem; padding: 1rem; background: var(--back); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere }
nav { position: sticky; top: 0; background: var(--back); padding: .5rem 0; border-bottom: 1px solid var(--line) }
nav a { color: inherit; margin-right: 1rem; white-space: nowrap }
h2 { scroll-margin-top: 4rem } p, small { color: var(--soft) } b { font-weight: 600 }
.wide { overflow-x: auto } table { border-collapse: collapse }
td, th { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line) }
td:first-child, th:first-child { text-align: left } th { overflow-wrap: normal }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 45%), 1fr)) }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .4rem; overflow: hidden }
img { width: 100%; display: block } figcaption { padding: .4rem .6rem } small { display: block; line-height: 1.35 }
"""


class Card(NamedTuple):
    """A crop and what is said of it."""

    jpeg: bytes
    heading: str
    lines: tuple[str, ...]


class Chapter(NamedTuple):
    """One kind of mistakes: how many there are, and those that are shown."""

    title: str
    text: str
    total: int
    cards: list[Card]


def crop(image: np.ndarray, outlines: Sequence[Outline]) -> bytes:
    """A square around the first box with as much around it, as JPEG, and boxes in their colours, the first on top.

    Args:
        image: uint8 ``[H, W, 3]`` RGB.
        outlines: boxes xyxy ``[4]`` in pixels of the image, their colours, and how wide the lines are.
    """
    size, (first, *_) = np.array(image.shape[1::-1]), outlines[0]
    side = np.ceil(np.clip(2 * (first[2:] - first[:2]).max(), 64, size)).astype(int)  # [2], a square in most images
    low = np.clip(((first[:2] + first[2:] - side) / 2).astype(int), 0, size - side)
    high = low + side
    part = image[low[1] : high[1], low[0] : high[0]]
    ratio = SIDE / max(part.shape[:2])
    part = cv2.resize(part, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC)
    for box, colour, width in reversed(outlines):
        top_left, bottom_right = ((box.reshape(2, 2) - low) * ratio).round().astype(int).tolist()
        cv2.rectangle(part, top_left, bottom_right, BLACK, width + 2)
        cv2.rectangle(part, top_left, bottom_right, colour, width)
    return cv2.imencode(".jpg", part[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def review_page(title: str, text: str, table: Sequence[Sequence[str]], chapters: Sequence[Chapter]) -> str:
    """The page: a table, its header first, and a chapter for each kind."""
    links = [f'<a href="#{number}">{_text(own.title)}: {own.total:,}</a>' for number, own in enumerate(chapters)]
    tags = ["th", *["td"] * (len(table) - 1)]
    rows = ("".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in row) for tag, row in zip(tags, table, strict=True))
    body = [f"<h1>{_text(title)}</h1><p>{escape(text)}</p><nav>{' '.join(links)}</nav>"]
    body += ['<div class="wide"><table><tr>', "</tr>\n<tr>".join(rows), "</tr></table></div>"]
    for number, own in enumerate(chapters):
        body.append(f'<h2 id="{number}">{_text(own.title)}: {own.total:,}</h2><p>{escape(own.text)}</p>')
        body.append(f'<div class="cards">{"".join(map(_figure, own.cards))}</div>')
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser then fetches and runs nothing
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    head += f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{_text(title)}</title>'
    head = f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>'
    return f"{head}\n<body>{''.join(body)}</body></html>\n"


def _figure(card: Card) -> str:
    image = base64.b64encode(card.jpeg).decode()
    lines = "".join(f"<small>{_text(line)}</small>" for line in card.lines if line)
    image = f'<img src="data:image/jpeg;base64,{image}" alt="{_text(card.heading)}">'
    return f"<figure>\n{image}<figcaption><b>{_text(card.heading)}</b>{lines}</figcaption></figure>"


def _text(text: str) -> str:
    return escape(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")
