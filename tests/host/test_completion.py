"""Completion in the shells themselves: bash, zsh and fish read our files and offer what fits."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
FILES = {
    "bash": HERE / "debian/quantum-ess.bash-completion",
    "zsh": HERE / "debian/completion/_quantum-ess",
    "fish": HERE / "debian/completion/quantum-ess.fish",
}
ASK = {
    # As bash-completion does: the words so far, and which of them is being typed.
    "bash": """
. /usr/share/bash-completion/bash_completion; . {file}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE="{words}"
COMP_POINT=${{#COMP_LINE}}; _quantum_ess
printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    # compadd, which would speak to the line editor, says what it was given; _arguments and
    # _describe are zsh's own and need that editor, so what they were told is shown.
    "zsh": """
words=({words}); CURRENT=${{#words}}; line=()
_arguments() {{
    [[ $1 == -C ]] && state=argument && words=("${{(@)words[2,-1]}}")
    print -l -- "$@"
}}
compadd() {{ print -l -- "$@" }}; compdef() {{ : }}
. {file}
""",
    "fish": "source {file}; complete -C '{words}'",
}
EXPECTED = {
    "quantum-ess deactivate --": {"--reason", "--no-start", "--override"},
    "quantum-ess proof --": {"--json", "--report", "--yes"},
    "quantum-ess status --": {"--json", "--quiet", "--watch"},
}


@pytest.mark.parametrize("shell", FILES)
def test_offers_what_fits(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    assert program, f"{shell} is not installed: make setup"
    assert subprocess.run([program, "-n", str(FILES[shell])], check=False).returncode == 0
    for words, options in EXPECTED.items():
        script = ASK[shell].format(file=FILES[shell], words=words)
        done = subprocess.run(
            [program, "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "TERM": "dumb"},
        )
        said = done.stdout.replace("{-q,--quiet}", "--quiet")
        missing = {word for word in options if word not in said}
        assert not missing, f"{words}: {missing} missing from: {done.stdout}\n{done.stderr}"
        assert "--apply" not in said and "--verify" not in said
        assert done.stderr == ""
