"""Reports: one HTML page that stands for itself, with nothing fetched, run or left unescaped.

    page = Page("Emergency stop: proof", "PASS", "on host a, 2026-01-28")
    page.facts("Host", [("Name", "a")])
    page.table("Checks", ("Check", "Verdict"), [("stopped", "PASS")])
    page.picture("Timeline", svg.timeline(...), "what it shows")
    write("/root/proof.html", page.html())

Whatever is given as text is escaped; only `picture` takes markup, that of quantum_ess.svg.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from html import escape

from quantum_ess import __version__

# A word in a cell that is shown as a badge.
BADGES = {
    "PASS": "good",
    "FAIL": "bad",
    "NOTE": "note",
    "ACTIVE": "bad",
    "INACTIVE": "good",
    "passed": "good",
    "failed": "bad",
}
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1d2530; background: #fff;
  max-width: 62em; margin: 2em auto; padding: 0 1.5em; }
header { border-bottom: 3px solid #1d2530; margin-bottom: 1.5em; padding-bottom: .6em; }
h1 { font-size: 1.6em; margin: 0; } h2 { font-size: 1.15em; margin: 1.8em 0 .5em; }
header p { margin: .2em 0 0; color: #53606f; }
table { border-collapse: collapse; width: 100%; font-size: .93em; }
th, td { text-align: left; vertical-align: top; padding: .35em .7em .35em 0;
  border-bottom: 1px solid #dde3ea; overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid #9aa7b5; white-space: nowrap; }
.checks td:nth-child(1) { width: 17%; } .checks td:nth-child(2) { width: 28%; }
.checks td:nth-child(4) { width: 6em; } .checks td:nth-child(5) { width: 5.5em; }
.plain td:first-child { white-space: nowrap; } /* a time, an incident: never in two lines */
.facts th { width: 11em; font-weight: 600; color: #53606f; }
.badge { font-weight: 700; padding: .05em .55em; border-radius: .3em; white-space: nowrap; }
.good { color: #0b5b2b; background: #d9f2e1; } .bad { color: #8c1114; background: #fbdcdc; }
.note { color: #5c4700; background: #fbeebf; }
.verdict { float: right; font-size: 1.3em; margin-top: .1em; }
figure { margin: 0; } figcaption { color: #53606f; font-size: .9em; }
svg { width: 100%; height: auto; }
footer { margin-top: 3em; color: #53606f; font-size: .85em; border-top: 1px solid #dde3ea; }
tr, figure { break-inside: avoid; }
@media print { body { margin: 0; max-width: none; font-size: 12px; } }
"""
# Were something to slip through after all, no browser would run or fetch it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Page:
    """One report. verdict: PASS, FAIL or another word; a badge if it is one of BADGES."""

    def __init__(self, title: str, verdict: str, subtitle: str) -> None:
        self.title = title
        self._parts: list[str] = []
        badge = f'<span class="verdict">{_cell(verdict)}</span>' if verdict else ""
        self._head = f"<header>{badge}<h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>"

    def text(self, title: str, *paragraphs: str) -> None:
        """A heading with paragraphs."""
        body = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs)
        self._section(title, body)

    def facts(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Names and values."""
        body = "".join(f"<tr><th>{escape(name)}</th><td>{_cell(v)}</td></tr>" for name, v in rows)
        self._section(title, f'<table class="facts"><tbody>{body}</tbody></table>')

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; a cell that is one of BADGES is shown as such."""
        head = "".join(f"<th>{escape(text)}</th>" for text in heads)
        lines = ("".join(f"<td>{_cell(cell)}</td>" for cell in row) for row in rows)
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        kind = "checks" if heads[-1:] == ("Verdict",) else "plain"
        table = f'<table class="{kind}">'
        table += f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        self._section(title, table)

    def picture(self, title: str, svg: str, caption: str) -> None:
        """A picture made by quantum_ess.svg, as it is."""
        figure = f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        self._section(title, figure)

    def html(self) -> str:
        """The whole page."""
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
            f'<meta name="viewport" content="width=device-width">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style></head>\n"
            f"<body>{self._head}\n{''.join(self._parts)}"
            f"<footer><p>Made by quantum-ess {escape(__version__)}. This page holds all of its "
            f"content and refers to nothing outside.</p></footer></body></html>\n"
        )

    def _section(self, title: str, body: str) -> None:
        self._parts.append(f"<section><h2>{escape(title)}</h2>{body}</section>\n")


def _cell(text: str) -> str:
    kind = BADGES.get(text)
    return f'<span class="badge {kind}">{escape(text)}</span>' if kind else escape(text)


def write(path: str, html: str) -> None:
    """Put the page there, whole or not at all, readable by its owner only. Raises OSError."""
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        # /dev/null, say, and /dev/stdout, which is a link: it would be replaced, for everybody.
        raise OSError(errno.EEXIST, "is there and not a regular file", path)
    directory = os.path.dirname(os.path.abspath(path))
    fd, draft = tempfile.mkstemp(prefix=".quantum-ess-", suffix=".html", dir=directory)
    try:
        with open(fd, "w", encoding="utf-8", errors="replace") as file:
            file.write(html)
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise
