"""The commands drill and proof: questions, output, exit status."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from functools import partial
from typing import Any

from quantum_ess.errors import Failed, Usage
from quantum_ess.evidence import Evidence
from quantum_ess.progress import Progress

PATIENCE = 0.5  # seconds for a terminal that was stopped (Ctrl-S): trading is, meanwhile


def command(args: Namespace) -> int:
    """Run one of the two. Raises Failed, Usage."""
    if args.command == "proof":
        return _proof(args)
    return _drill(args)


def _drill(args: Namespace) -> int:
    from quantum_ess import drill

    if args.clean:
        drill.clean_up()
        return 0
    with Progress(quiet=args.json, patience=PATIENCE) as progress:
        progress.line("ESS DRILL: on canaries, trading goes on")
        evidence = Evidence(progress)
        done, result = drill.perform(evidence)
    title = "Emergency stop: drill on canaries"
    passed = f"PASS: every way stops, within {max(result['stop_ms'].values(), default=0):.0f} ms"
    return _conclude(args, evidence, result, (title, passed), done.stops)


def _proof(args: Namespace) -> int:
    from quantum_ess import proof

    units = proof.ready()
    if not args.yes:
        if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
            raise Usage("proof stops trading", hint="to do that from a script: proof --yes")
        ask = partial(print, file=sys.stderr, flush=True)  # stdout may be a file, or a program's
        ask(f"This STOPS TRADING for a while: {' '.join(units)}")
        ask("Go on? Type yes: ", end="")
        if sys.stdin.readline().strip() != "yes":  # "" at the end of file
            raise Failed("nothing was done")
    with Progress(quiet=args.json, patience=PATIENCE) as progress:
        progress.line(proof.HEADER)
        evidence = Evidence(progress)
        stops = proof.perform(evidence)
    result = proof.result(evidence, stops)
    title = "Emergency stop: end-to-end proof"
    return _conclude(args, evidence, result, (title, proof.PASSED), stops)


def _conclude(
    args: Namespace,
    evidence: Evidence,
    result: dict[str, Any],
    says: tuple[str, str],
    stops: list[tuple[str, str, float]],
) -> int:
    """Report and last line; the exit status. says: title, and the summary if all is well."""
    title, passed = says
    failures = result["failures"]
    unwritten: Failed | None = None
    if args.report:
        from quantum_ess import evidencereport

        try:
            evidencereport.write(args.report, title, evidence, result, stops)
            evidence.progress.line(f"report: {args.report}")
        except Failed as error:
            unwritten = error  # the verdict is worth more: that first
    if args.json:
        print(json.dumps(result, indent=2))
    verdict = f"FAIL: {'; '.join(failures)}" if failures else passed
    evidence.progress.line(f"[SUMMARY] {verdict}")
    if unwritten:
        raise unwritten
    if evidence.progress.lost:
        raise Failed("the output could not be written", hint="--report FILE writes it to a file")
    return 1 if failures else 0
