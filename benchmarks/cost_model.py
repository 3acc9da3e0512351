"""How far the latency estimates are off: leave-one-model-out tables over the published latencies, as Markdown.

    python -m benchmarks.cost_model            # print
    python -m benchmarks.cost_model --write    # and put it into docs/cost-model.md

Takes half a minute; needs no device, no TensorFlow and nothing from EDGECOMP_DATA.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.cost_leave_out import LeftOut, Scheme, Summary, leave_out, summary
from benchmarks.cost_rows import Graphs, Row, read_graphs, read_rows
from edgecomp.cost import LatencyEstimate, estimate
from edgecomp.cost_families import load_family

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "cost-model.md"
_BORDERS = ("<!-- Written by python -m benchmarks.cost_model --write -->", "<!-- End of what is written -->")
_GROUPS = ("open-mcu", "xnnpack", "hale")
_SCHEMES: tuple[Scheme, ...] = ("on its board", "everywhere")


def results(rows: Sequence[Row], graphs: Graphs) -> dict[Scheme, list[LeftOut]]:
    """Every row of the groups that are fitted, predicted without its model."""
    return {
        scheme: [item for group in _GROUPS for item in leave_out([r for r in rows if r.group == group], graphs, scheme)]
        for scheme in _SCHEMES
    }


def tables(rows: Sequence[Row], graphs: Graphs, left: dict[Scheme, list[LeftOut]]) -> str:
    """All tables, as Markdown."""
    return "\n\n".join((_summaries(left), _boards(left), _checks(rows, graphs)))


def _summaries(left: dict[Scheme, list[LeftOut]]) -> str:
    def open_mcu(row: Row) -> bool:
        return row.bar and row.group == "open-mcu"

    families = dict.fromkeys(item.row.family for item in left["everywhere"] if item.row.family)
    chosen = [
        ("**All rows of the target**", lambda row: row.bar),
        ("of these, microcontrollers", open_mcu),
        ("of these, Raspberry Pi", lambda row: row.bar and "Raspberry" in row.board),
        ("of these, phones", lambda row: row.bar and "Pixel" in row.board),
        *((f"`{name}`", lambda row, name=name: row.family == name) for name in families),
        ("HALE, all boards", lambda row: row.group == "hale"),
    ]
    lines = [
        "| rows | number | left out | median error | largest | inside the interval | median half-width |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, keep in chosen:
        for scheme in _SCHEMES:
            items = [item for item in left[scheme] if keep(item.row)]
            found = summary(items)
            largest = max((item.relative_error for item in items), key=abs)
            lines.append(
                f"| {title} | {found.rows} | {scheme} | {found.median_error:.1%} | {largest:+.0%} "
                f"| {found.coverage:.0%} | ±{found.median_half_width:.0%} |"
            )
    return "\n".join(lines) + "\n\n" + _verdict(left)


def _verdict(left: dict[Scheme, list[LeftOut]]) -> str:
    def said(found: Summary) -> str:
        return "met" if found.meets_the_bar else "MISSED"

    of_bar = {scheme: summary([item for item in items if item.row.bar]) for scheme, items in left.items()}
    return (
        "Target (median error at most 15 %, at least 85 % of the rows inside the 90 % interval, median half-width at "
        f"most 30 %): {said(of_bar['on its board'])} with the model left out on its board, "
        f"{said(of_bar['everywhere'])} with the model left out everywhere."
    )


def _boards(left: dict[Scheme, list[LeftOut]]) -> str:
    everywhere = {item.row: item for item in left["everywhere"]}
    lines = [
        "| board, runtime | model | published ms | predicted ms, left out on its board | error | left out everywhere "
        "| error |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {_title(item.row)} | {item.row.model} {item.row.dtype} | {item.row.ms:g} | {_range(item.estimate)} "
        f"| {item.relative_error:+.0%} | {_range(everywhere[item.row].estimate)} "
        f"| {everywhere[item.row].relative_error:+.0%}{'' if everywhere[item.row].is_inside else ' (outside)'} |"
        for item in left["on its board"]
    ]
    return "\n".join(lines)


def _checks(rows: Iterable[Row], graphs: Graphs) -> str:
    lines = [
        "| board, runtime | model | published ms | predicted ms | published / predicted |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if row.group != "check":
            continue
        family = load_family(row.family)
        found, reason = estimate(graphs[row.model, row.dtype], family, family.cores[row.core], row.clock_hz)
        if found is None:
            raise ValueError(reason)
        lines.append(
            f"| {_title(row)} | {row.model} {row.dtype} | {row.ms:g} "
            f"| {_range(found)} | {row.ms / found.value_ms:.2g} |"
        )
    return "\n".join(lines)


def _title(row: Row) -> str:
    return f"{row.board}, {row.runtime}" + (f", {row.threads} threads" if row.threads > 1 else "")


def _range(found: LatencyEstimate) -> str:
    value, low, high = (
        f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}" for ms in (found.value_ms, found.low_ms, found.high_ms)
    )
    return f"{value} [{low}, {high}]"


def document(text: str, filling: str) -> str:
    """The document with the tables in their place."""
    first, last = _BORDERS
    place = re.compile(re.escape(first) + ".*" + re.escape(last), re.DOTALL)
    if not place.search(text):
        raise ValueError(f"the document lacks {first} and {last}")
    return place.sub(lambda _: f"{first}\n\n{filling}\n\n{last}", text)


def main() -> int:
    """Print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/cost-model.md")
    options = parser.parse_args()
    rows, graphs = read_rows(), read_graphs()
    filling = tables(rows, graphs, results(rows, graphs))
    print(filling)
    if options.write:
        DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8"), filling), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
