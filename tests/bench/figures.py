"""What was measured: medians with their spread, ratios, goals, and the table of them."""

import dataclasses
import statistics


class Figure:
    """Some measurements of the same."""

    def __init__(self, values, unit=""):
        self.values, self.unit = sorted(values), unit
        self.median = statistics.median(self.values)

    def __str__(self):
        text = f"{_short(self.median)}{self.unit}"
        if len(self.values) > 1:
            text += f" ({_short(self.values[0])}..{_short(self.values[-1])})"
        return text


@dataclasses.dataclass
class Row:
    """One goal, and how far we are."""

    work: str
    ours: str
    other: str = ""
    ratio: str = ""
    goal: str = ""
    met: bool | None = None

    def cells(self):
        return [self.work, self.ours, self.other, self.ratio, self.goal, {True: "yes", False: "**no**", None: ""}[self.met]]


HEAD = ["work", "conntracker", "compared with", "ratio", "goal", "met"]


def at_most_times(work, ours, other, name, limit):
    """Ours may cost so many times what the other does."""
    ratio = ours.median / other.median
    return Row(work, str(ours), f"{name}: {other}", f"{ratio:.2f}", f"at most {limit} times", ratio <= limit)


def times_less(work, ours, other, name, least):
    """The other costs at least so many times what ours does."""
    ratio = other.median / ours.median
    return Row(work, str(ours), f"{name}: {other}", f"{ratio:.1f}", f"at least {least} times less", ratio >= least)


def beside(work, ours, other, name):
    """What there is no goal for."""
    return Row(work, str(ours), f"{name}: {other}", f"{ours.median / other.median:.2f}")


def at_most(work, ours, limit, unit):
    return Row(work, str(ours), "", "", f"at most {limit}{unit}", ours.median <= limit)


def table(rows):
    """Markdown, aligned for people who see it in a terminal."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    shown = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    return "\n".join([shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *shown[1:]])


def _short(value):
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"
