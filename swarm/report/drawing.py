"""Where the lines and boxes of a report's two pictures go.

Owns geometry only: numbers in, numbers and path strings out, in the units of the drawing. Text is placed by the
template, which escapes it; nothing here writes markup.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from swarm.report.shapes import Link, Node, Picture, Timeline

WIDTH = 960
BAR, GAP, LEAST, TALLEST = 12, 14, 16, 300
COLUMN_X = (236, 420, 640, 850)
TITLES = ("Documents", "Rows", "Findings", "Sentences")
LANE, LANE_GAP, LEFT, RIGHT, TOP = 34, 12, 190, 30, 30
NARROW, NARROW_LEFT = 350, 96
"""Width of the timeline on a phone, and of its labels."""
TICK_WIDTH = 105
START_SHARE = 0.1
"""If nobody worked for a larger share of the time at first, the timeline begins when somebody did."""
LABEL = 30


@dataclass(frozen=True, slots=True)
class Box:
    """A node as it is drawn; `text_x` and `anchor` place its label."""

    node: Node
    x: float
    y: float
    height: float
    text_x: float
    anchor: str
    label: str


@dataclass(frozen=True, slots=True)
class Ribbon:
    """A link as a filled path."""

    path: str
    tone: str
    title: str


@dataclass(frozen=True, slots=True)
class Flow:
    """The picture of the blackboard."""

    width: int
    height: float
    boxes: tuple[Box, ...]
    ribbons: tuple[Ribbon, ...]
    titles: tuple[tuple[float, str, str], ...]
    """(x, anchor, text) of each column."""


def flow(picture: Picture) -> Flow:
    """Lays out the nodes in columns, heights by their counts, and a ribbon for each link."""
    columns: dict[int, list[Node]] = defaultdict(list)
    for node in picture.nodes:
        columns[node.column].append(node)
    most = max((sum(node.count for node in column) for column in columns.values()), default=1)
    scale = TALLEST / max(1, most)
    boxes: dict[str, Box] = {}
    height = 0.0
    for number, column in columns.items():
        y = TOP + 14.0
        for node in column:
            tall = max(LEAST, node.count * scale)
            left = number == 0
            x = float(COLUMN_X[number])
            text_x = x - 8 if left else x + BAR + 8
            boxes[node.id] = Box(
                node, x, y, tall, text_x, "end" if left else "start", shortened(node.label, LABEL, left)
            )
            y += tall + GAP
        height = max(height, y)
    titles = tuple(
        (float(COLUMN_X[number]) + (BAR if number == 0 else 0), "end" if number == 0 else "start", TITLES[number])
        for number in sorted(columns)
    )
    return Flow(WIDTH, height + 6, tuple(boxes.values()), tuple(_ribbons(picture.links, boxes)), titles)


def _ribbons(links: tuple[Link, ...], boxes: dict[str, Box]) -> list[Ribbon]:
    """Ribbons leave and enter each box from top to bottom in the order of what they lead to, so that few cross."""
    drawn = []
    left: dict[str, float] = defaultdict(float)
    right: dict[str, float] = defaultdict(float)
    for link in sorted(
        links, key=lambda one: (boxes[one.source].x, boxes[one.source].y, boxes[one.target].y, one.tone)
    ):
        source, target = boxes[link.source], boxes[link.target]
        a = link.count / source.node.count * source.height
        b = link.count / target.node.count * target.height
        y0, y1 = source.y + left[link.source], target.y + right[link.target]
        left[link.source] += a
        right[link.target] += b
        x0, x1 = source.x + BAR, target.x
        mid = (x0 + x1) / 2
        path = (
            f"M{x0:.1f},{y0:.1f}C{mid:.1f},{y0:.1f} {mid:.1f},{y1:.1f} {x1:.1f},{y1:.1f}"
            f"L{x1:.1f},{y1 + b:.1f}C{mid:.1f},{y1 + b:.1f} {mid:.1f},{y0 + a:.1f} {x0:.1f},{y0 + a:.1f}Z"
        )
        drawn.append(Ribbon(path, link.tone, f"{source.node.label} → {target.node.label}: {link.count}"))
    return drawn


@dataclass(frozen=True, slots=True)
class Strip:
    """A lane of the timeline: a filled path over its base line."""

    y: float
    role: str
    host: str
    tone: int
    path: str
    tasks: int
    peak: float


@dataclass(frozen=True, slots=True)
class Chart:
    """The timeline of agents."""

    width: int
    height: float
    base: float
    left: int
    right: float
    strips: tuple[Strip, ...]
    ticks: tuple[tuple[float, str], ...]
    moments: tuple[tuple[float, int, str], ...]
    """(x, number, text)."""
    before: float
    """Seconds before its left end, in which no agent had any work."""


def chart(timeline: Timeline, width: int = WIDTH, left: int = LEFT) -> Chart:
    """Lays out lanes, most agents at once drawn highest, with ticks at round numbers of seconds."""
    before = _start(timeline)
    span = max(timeline.seconds - before, timeline.width, 1e-9)
    inner = width - left - RIGHT

    def place(at: float) -> float:
        return left + min(1.0, max(0.0, (at - before) / span)) * inner

    peak = max((busy / timeline.width for lane in timeline.lanes for busy in lane.busy), default=1.0) or 1.0
    roles = list(dict.fromkeys(lane.role for lane in timeline.lanes))
    strips = []
    for at, lane in enumerate(timeline.lanes):
        floor = TOP + (at + 1) * LANE + at * LANE_GAP
        steps = [f"M{left},{floor}"]
        for index, busy in enumerate(lane.busy):
            x0, x1 = place(index * timeline.width), place((index + 1) * timeline.width)
            top = floor - (max(2.0, busy / timeline.width / peak * LANE) if busy else 0.0)
            steps.append(f"L{x0:.1f},{top:.1f}L{x1:.1f},{top:.1f}")
        end = place(len(lane.busy) * timeline.width)
        most = max(lane.busy, default=0.0) / timeline.width
        path = "".join(steps) + f"L{end:.1f},{floor}Z"
        strips.append(Strip(floor, lane.role, lane.host, roles.index(lane.role) % 6, path, lane.tasks, most))
    base = TOP + len(strips) * (LANE + LANE_GAP)
    ticks = tuple((place(at), spoken_seconds(at)) for at in _round_steps(before, span, max(3, inner // TICK_WIDTH)))
    moments = tuple((place(moment.at), number, moment.what) for number, moment in enumerate(timeline.moments, 1))
    return Chart(width, base + 26, base, left, width - RIGHT, tuple(strips), ticks, moments, before)


def _start(timeline: Timeline) -> float:
    """When the timeline begins: a model takes half a minute to load, which would leave little of a small job to be seen."""
    bins = [index for lane in timeline.lanes for index, busy in enumerate(lane.busy) if busy]
    first = min(bins, default=0) * timeline.width
    return first if first > START_SHARE * timeline.seconds else 0.0


def _round_steps(first: float, span: float, most: int) -> list[float]:
    """Round times within `span` seconds after `first`, about as many as `most`."""
    sizes = [unit * factor for unit in (0.001, 0.01, 0.1, 1, 10) for factor in (1, 2, 5)]
    sizes += [60 * factor for factor in (1, 2, 5, 10, 15, 30)] + [3600 * factor for factor in (1, 2, 4, 8, 24, 72, 168)]
    step = next((size for size in sizes if span / size <= most), sizes[-1])
    return [step * at for at in range(math.ceil(first / step), int((first + span) / step) + 1)][:200]


def spoken_seconds(seconds: float) -> str:
    """`0.4 s`, `48 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    units = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    size, name, small, part = next(unit for unit in units if seconds >= unit[0] or unit[0] == 60)
    whole, rest = divmod(round(seconds), size)
    rest //= small
    return f"{whole} {name} {rest} {part}" if rest else f"{whole} {name}"


def shortened(text: str, length: int, keep_end: bool = False) -> str:
    """The text in at most `length` characters on one line; a path keeps its end."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    return "…" + line[1 - length :] if keep_end else line[: length - 1] + "…"
