"""The profile as one HTML page with pictures: no script, no font and no address outside of it."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from ultramarine_contract.dataset_records import ProfileSummary

from ultramarine_data.statistics import QUANTILES, ColumnProfile

MAX_CARDS = 1000  # columns with pictures; the files beside the page have all
WIDTH, HEIGHT = 280, 80  # of a histogram
STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b2430; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
h2 small { color: #64748b; font-weight: normal; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
.card { border: 1px solid #d5dce6; border-radius: 6px; padding: .8rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .1rem .4rem .1rem 0; }
td { overflow-wrap: anywhere; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.broken { border-left: 4px solid #c2410c; padding-left: .8rem; } pre { white-space: pre-wrap; margin: .2rem 0; }
svg { display: block; margin: .5rem 0; } rect { fill: #2f6fb0; } rect.back { fill: #eef2f7; }
text { font-size: 10px; fill: #64748b; }
@media (prefers-color-scheme: dark) { body { background: #10151c; color: #dbe3ee; } .card { border-color: #334155; }
rect.back { fill: #1e293b; } }
"""


def page(title: str, summary: ProfileSummary, profiles: list[ColumnProfile]) -> str:
    """Return the page."""
    return "\n".join(_lines(title, summary, profiles)) + "\n"


def _lines(title: str, summary: ProfileSummary, profiles: list[ColumnProfile]) -> Iterator[str]:
    yield "<!doctype html>"
    yield f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head>'
    yield "<body>"
    yield f"<h1>{escape(title)}</h1>"
    yield f"<p>{summary.rows:,} rows, {summary.column_count:,} columns, {escape(summary.format) or 'no table'}.</p>"
    for violation in summary.violations:
        rows = f" {violation.rows:,} rows." if violation.rows else ""
        yield f'<div class="broken"><strong>{escape(violation.rule)}</strong>{rows}'
        yield from (f"<pre>{escape(example)}</pre>" for example in violation.examples)
        yield "</div>"
    yield '<div class="cards">'
    for profile in profiles[:MAX_CARDS]:
        yield from _card(profile, summary.rows)
    yield "</div>"
    if len(profiles) > MAX_CARDS:
        yield f"<p>{len(profiles) - MAX_CARDS:,} more columns are in profile.json and profile.parquet.</p>"
    yield "</body></html>"


def _card(profile: ColumnProfile, rows: int) -> Iterator[str]:
    yield f'<div class="card"><h2>{escape(profile.name)} <small>{escape(profile.type)}</small></h2>'
    if profile.counts:
        yield _histogram(profile)
    share = profile.nulls / rows if rows else 0.0
    yield "<table>"
    yield _row("missing", f"{profile.nulls:,} ({share:.1%})")
    yield _row("distinct", f"about {profile.distinct:,}")
    if profile.minimum or profile.maximum:
        yield _row("minimum", profile.minimum)
        yield _row("maximum", profile.maximum)
    if profile.mean is not None:
        spread = f" ± {profile.deviation:.4g}" if profile.deviation is not None else ""
        yield _row("mean", f"{profile.mean:.4g}{spread}")
    for quantile, value in zip(QUANTILES, profile.quantiles, strict=False):
        yield _row(f"{quantile:.0%}", f"{value:.4g}")
    if profile.longest is not None:
        yield _row("characters", f"{profile.shortest} to {profile.longest}")
    yield "</table>"
    if profile.top and not profile.counts:
        yield _bars(profile, rows)
    yield "</div>"


def _row(name: str, value: str) -> str:
    return f'<tr><th>{escape(name)}</th><td class="number">{escape(value)}</td></tr>'


def _histogram(profile: ColumnProfile) -> str:
    most, width = max(profile.counts) or 1, WIDTH / len(profile.counts)
    bars = "".join(
        f'<rect x="{index * width:.1f}" y="{HEIGHT - HEIGHT * count / most:.1f}" width="{max(width - 1, 1):.1f}" '
        f'height="{HEIGHT * count / most:.1f}"><title>up to {edge:.6g}: {count:,}</title></rect>'
        for index, (count, edge) in enumerate(zip(profile.counts, profile.edges[1:], strict=True))
    )
    label = f"histogram of {escape(profile.name, quote=True)}"
    return f'<svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%">{bars}</svg>'


def _bars(profile: ColumnProfile, rows: int) -> str:
    lines = []
    for index, (value, count) in enumerate(profile.top):
        y, length = index * 18, WIDTH * count / max(rows, 1)
        text = value if len(value) <= 40 else f"{value[:39]}…"
        lines.append(
            f'<rect class="back" x="0" y="{y}" width="{WIDTH}" height="16"/>'
            f'<rect x="0" y="{y}" width="{length:.1f}" height="16" opacity=".45"/>'
            f'<text x="4" y="{y + 12}">{escape(text)}</text>'
            f'<text x="{WIDTH - 4}" y="{y + 12}" text-anchor="end">{count:,}</text>'
        )
    label = f"most frequent values of {escape(profile.name, quote=True)}"
    height = len(profile.top) * 18
    return f'<svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {height}" width="100%">{"".join(lines)}</svg>'
