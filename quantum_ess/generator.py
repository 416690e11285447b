"""The generator: the configuration into drop-ins and a plan, when PID 1 loads its units.

After systemd.generator(7). Run by libexec/generator, which puts the last good tree in place
whenever this ends with another status than 0. Nothing outside of OUTDIR and /run is written.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

from quantum_ess import config, gate, plan
from quantum_ess.compiler import Compiled
from quantum_ess.errors import ConfigError, EssError, Failed, Usage, shown
from quantum_ess.group import DRILL, TRADING
from quantum_ess.guard import rules
from quantum_ess.unitfiles import UnitFiles

RUN = TRADING.run
USAGE = "usage: generator OUTDIR [ROOT] | --default CONF OUTDIR | --drill OUTDIR"


def main(arguments: list[str]) -> int:
    """Write the tree; the exit status. ROOT is another root directory, for tests."""
    os.umask(0o022)
    try:
        match arguments:
            case ["--default", conf, outdir]:
                write(gate.tree(Compiled(config.load([conf]))), outdir)
            case ["--drill", outdir]:
                canaries = tuple(entry.name for entry in plan.read(DRILL).protect)
                write(gate.drill_tree(DRILL, canaries), outdir)
            case [outdir] | [outdir, ""]:
                generate(outdir)
            case [outdir, root]:
                generate(outdir, root)
            case _:
                raise Usage(USAGE)
    except EssError as error:
        print(error, file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return Failed.status
    return 0


def generate(outdir: str, root: str = "") -> None:
    """Read the configuration, write the tree to outdir and publish it below /run/quantum-ess.

    Raises OSError, and ConfigError after it has been written to config-error.
    """
    run = root + RUN
    os.makedirs(run, 0o755, exist_ok=True)
    try:
        loaded = config.load(config.default_paths(root))
        files = gate.tree(Compiled(loaded, UnitFiles(root, gate.held_now(root))))
        if guarded := rules.text(rules.of(loaded)):
            files[rules.FILE] = guarded
    except ConfigError as error:
        lines = [shown(_outside(str(each), root)) for each in (error, *error.others)]
        replace(f"{run}/config-error", "\n".join(lines) + "\n", 0o644)
        raise
    write(files, outdir)
    publish(files, run)


def write(files: dict[str, str], outdir: str) -> None:
    """Write the tree; path below outdir to content. Raises OSError."""
    for path, content in files.items():
        whole = f"{outdir}/{path}"
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "w", encoding="utf-8", opener=_opener(_mode(content))) as file:
            file.write(content)


def publish(files: dict[str, str], run: str) -> None:
    """Make the tree the last good one, its plan and its rules those in force. Raises OSError."""
    good = f"{run}/good"
    for leftover in (f"{good}.new", f"{good}.old"):
        shutil.rmtree(leftover, ignore_errors=True)
    write(files, f"{good}.new")
    if os.path.lexists(good):
        os.rename(good, f"{good}.old")
    os.rename(f"{good}.new", good)
    shutil.rmtree(f"{good}.old", ignore_errors=True)
    text = files[gate.PLAN]
    replace(f"{run}/plan", text, _mode(text))
    guarded = files.get(rules.FILE)
    if guarded:
        replace(f"{run}/guard-plan", guarded, _mode(guarded))
    elif os.path.lexists(f"{run}/guard-plan"):
        os.unlink(f"{run}/guard-plan")
    if os.path.lexists(f"{run}/config-error"):
        os.unlink(f"{run}/config-error")


def replace(path: str, content: str, mode: int) -> None:
    """Write a file so that it is either the old or the new one. Raises OSError."""
    new = f"{path}.new"
    if os.path.lexists(new):
        os.unlink(new)
    with open(new, "w", encoding="utf-8", opener=_opener(mode)) as file:
        file.write(content)
    os.rename(new, path)


def _opener(mode: int) -> Callable[[str, int], int]:
    return lambda path, flags: os.open(path, flags | os.O_CLOEXEC, mode)


def _mode(content: str) -> int:
    """0600 for a plan or rules with a password in it, else 0644."""
    for line in content.splitlines():
        if "redis.url" in line and ("@" in line or "password=" in line):
            return 0o600
    return 0o644


def _outside(message: str, root: str) -> str:
    """The message as it would be without another root directory."""
    return message.replace(root + "/", "/") if root else message


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
