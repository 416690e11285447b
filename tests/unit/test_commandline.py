"""The command line: help that fits a screen, completion and man page that know every option."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shlex
import subprocess

import pytest
from madeup import HERE

from quantum_ess import cli

MAN_PAGE = (HERE / "man/quantum-ess.8").read_text()
HIDDEN = ("tend", "work")  # what units run


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command that is for people."""
    for action in cli.build()._actions:
        if isinstance(action, argparse._SubParsersAction):
            known = dict(action.choices)
            return {name: parser for name, parser in known.items() if name not in HIDDEN}
    raise AssertionError("no commands")


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Its long options but --help, without those that only units use."""
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    words = {word for action in shown for word in action.option_strings}
    return {word for word in words if word.startswith("--") and word != "--help"}


def test_help_fits_a_screen() -> None:
    for name, parser in {"": cli.build(), **commands()}.items():
        lines = parser.format_help().splitlines()
        assert len(lines) <= 24, (name, len(lines))
        assert max(map(len, lines)) <= 80, name


def test_bash_completion() -> None:
    text = (HERE / "debian/quantum-ess.bash-completion").read_text()
    words = set(re.findall(r"[a-z-]+", text))
    for name, parser in commands().items():
        (row,) = re.findall(rf"^\t{name}\) word=(.*) ;;$", text, re.M)
        assert set(re.findall(r"--[a-z-]+", row)) - {"--help"} == options(parser), name
    assert set(commands()) <= words


def test_zsh_completion() -> None:
    text = (HERE / "debian/completion/_quantum-ess").read_text()
    assert set(re.findall(r"^\t\t'([a-z]+):", text, re.M)) == set(commands())
    rows = dict(re.findall(r"^\t\t([a-z]+)\) (_arguments .*?) ;;$", text, re.M | re.S))
    for name, parser in commands().items():
        assert set(re.findall(r"--[a-z-]+", rows.get(name, ""))) == options(parser), name


def test_fish_completion() -> None:
    text = (HERE / "debian/completion/quantum-ess.fish").read_text()
    assert set(re.findall(r"__fish_use_subcommand -a ([a-z]+)", text)) == set(commands())
    found: dict[str, set[str]] = {}
    for names, rest in re.findall(r"seen_subcommand_from ([a-z ]+)'(.*)", text):
        for name in names.split():
            found.setdefault(name, set()).update(re.findall(r"-l ([a-z-]+)", rest))
    for name, parser in commands().items():
        assert {f"--{word}" for word in found.get(name, set())} == options(parser), name


@pytest.mark.parametrize("section", ["EXAMPLES", "EXIT STATUS", "FILES", "ENVIRONMENT", "SEE ALSO"])
def test_sections_of_the_man_page(section: str) -> None:
    assert f".Sh {section}\n" in MAN_PAGE


def test_what_the_pages_say_to_type_is_understood() -> None:
    """Every command line of the runbook, of EXAMPLES and of the operations card in README."""
    pages = [(HERE / path).read_text() for path in ("man/quantum-ess.7", "README.md")]
    examples = MAN_PAGE[MAN_PAGE.index(".Sh EXAMPLES") :]
    pages.append(examples.replace("\\(dq", '"').replace(".Dl ", ""))
    found = [
        line
        for page in pages
        for line in re.findall(r"(?:^|`)(quantum-ess(?: [^`\n]+)?)(?:`|$)", page, re.M)
    ]
    assert len(found) > 25
    for line in found:
        cli.build().parse_args(shlex.split(line.split("|")[0], comments=True)[1:])
    assert len(pages[0].splitlines()) <= 90, "one page"


def test_the_man_page_has_every_option() -> None:
    for name, parser in commands().items():
        assert re.search(rf"^\.It Cm {name}\b", MAN_PAGE, re.M), name
        for option in options(parser):
            assert f"Fl -{option[2:]}" in MAN_PAGE.replace("\\", ""), option


def test_the_runbook_is_one_page() -> None:
    page = (HERE / "man/quantum-ess.7").read_text()
    assert len(page.splitlines()) <= 120
    for command in re.findall(r"^quantum-ess ([a-z]+)", page, re.M):
        assert command in commands()


@pytest.mark.parametrize("command", ["activate", "deactivate"])
def test_a_reason_that_is_no_text_is_made_one(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its notification could be neither a mail nor a URL, and was tried for a day."""
    given: list[object] = []
    monkeypatch.setattr(
        cli, "activate", lambda group, trigger, reason, created: given.append(reason)
    )
    monkeypatch.setattr(cli, "deactivate", lambda group, args: given.append(args.reason))
    cli.main([command, "--reason", os.fsdecode(b"f\xfcr heute")])
    assert given == ["f?r heute"]


def understood(argv: list[str]) -> str | None:
    """The reason of an activation by that alone, to argparse; None if it is anything else."""
    try:
        args = cli.build().parse_args(argv)
    except SystemExit:
        return None
    others = {name: value for name, value in vars(args).items() if name != "reason"}
    plain = {"command": "activate", "group": None, "trigger": "command", "created": None}
    return str(args.reason) if others == plain else None


def plain(argv: list[str]) -> str | None:
    """The same, to the shell that stops before there is a Python."""
    text = (HERE / "quantum_ess/libexec/quantum-ess").read_text()
    (function,) = re.findall(r"^plain\(\) \{$.*?^\}$", text, re.M | re.S)
    script = f'reason=; {function}\nplain "$@" && printf "%s." "$reason"'
    done = subprocess.run(["sh", "-uc", script, "sh", *argv], capture_output=True, check=False)
    assert not done.stderr
    return done.stdout.decode().removesuffix(".") if done.returncode == 0 else None


WORDS = """--reason --reason= --reason=a=b: --r --rea=x --reasons --trigger --created=1 "" - "a b"
"-5% in a minute" "-h now" -x --help "x=y: z" "--r x" "--r=x y" *"""


def test_the_shell_takes_for_an_activation_what_argparse_does() -> None:
    words = shlex.split(WORDS)
    for argv in ([], *([word] for word in words), *itertools.product(words, repeat=2)):
        call = ["activate", *argv]
        assert plain(call) == understood(call), call
    assert plain(["activate", "--r", "", "--reason=b"]) == "b"
