"""Faults of software: Python, the modules that ESS imports, its own, systemctl."""

import shlex

from faults.fault import COMMAND, TOUCH, UNIT, Fault, Made, script
from product import INCOMPLETE

MODULES = "/usr/lib/python3/dist-packages"
CODECS = "/usr/lib/python3.*/encodings"

PYTHON_MISSING = Fault(
    "Python missing",
    script("cd /usr/bin; mkdir /usr/away; mv python3* /usr/away/", "mv /usr/away/* /usr/bin/"),
    statuses=(INCOMPLETE,),
    says="no such file: .*python3.*stopping without it",
    python=False,
    smoke=(COMMAND, TOUCH),
)


def missing(module: str) -> Made:
    """The module cannot be found."""
    place = f"{MODULES}/{module}"
    return script(f"mv {place} /usr/away", f"mv /usr/away {place}")


def raising(module: str, text: str = "raise RuntimeError('broken on purpose')") -> Made:
    """The module's import ends in an error."""
    place = f"{MODULES}/{module}"
    return script(
        f'mv {place} /usr/away; echo "{text}" >{place}.py', f"rm {place}.py; mv /usr/away {place}"
    )


def own(module: str) -> Made:
    """A module of the package has a syntax error."""
    file = f"{MODULES}/quantum_ess/{module}.py"
    return script(f"cp -p {file} /usr/away; echo 'def (' >{file}", f"cp -p /usr/away {file}")


OWN = tuple(
    "activate cgroup plan latch group errors __main__ __init__ cli progress"  # before the stop ends
    " account record stage trail events history outbox refresh marker worker actor systemd".split()
)


def systemctl(name: str, body: str, smoke: tuple[str, ...] = ()) -> Fault:
    """The shells' way to ask PID 1 gives such an answer, to everybody who asks."""
    file, away = "/usr/bin/systemctl", "/usr/systemctl"
    text = shlex.quote(f"#!/bin/sh\n{body}\n")
    put = f"mv {file} {away}; printf %s {text} >{file}; chmod 755 {file}"
    return Fault(
        f"systemctl {name}",
        script(put, f"mv {away} {file}; pkill -f '^sleep 1234$' || :; test ! -e /run/made"),
        impossible={UNIT: "is a systemctl"},
        starts=False,
        smoke=smoke,
    )


# What a unit may be told to be: units of all kinds, kept ones, none, patterns, and a program.
TOLD = "prometheus.service quantum-governor.service nothing.service * $(touch${IFS}/run/made) -a"
NUMBERS = "x 1e9 99999999999999999999999999 -1 0 08"
SYSTEMCTL_FAULTS = (
    systemctl("fails", "exit 1"),
    systemctl("says nothing", "exit 0"),
    systemctl("hangs", "exec sleep 1234"),
    systemctl("talks nonsense", "head -c 200000 /dev/urandom"),
    systemctl(
        "lies",
        f"""set -f; for unit in {TOLD.replace("$", chr(92) + "$")}; do for number in {NUMBERS}; do
echo "$unit loaded deactivating running"
echo "Id=$unit"; echo ActiveState=failed; echo "InactiveExitTimestampMonotonic=$number"
echo "InactiveEnterTimestampMonotonic=$number"; echo
done; done""",
        smoke=(TOUCH,),
    ),
)

SOFTWARE_FAULTS = (
    PYTHON_MISSING,
    Fault(
        "Python can't start",  # and would say so on a page
        script(f"mv {CODECS} /usr/away", "mv /usr/away $(echo /usr/lib/python3.*)/encodings"),
        statuses=(INCOMPLETE,),
        says="failed .status 1.; stopping without it",
        python=False,
        smoke=(COMMAND,),
    ),
    Fault("jeepney missing", missing("jeepney"), statuses=(INCOMPLETE,), says="jeepney"),
    Fault(
        "jeepney raises on import",
        raising("jeepney"),
        statuses=(INCOMPLETE,),
        says="broken on purpose",
    ),
    Fault("redis missing", missing("redis"), says="redis"),
    Fault("redis raises on import", raising("redis"), says="broken on purpose"),
    Fault("daemon missing", missing("daemon")),
    Fault("daemon raises on import", raising("daemon")),
    *(
        Fault(
            f"syntax error in {module}.py",
            own(module),
            statuses=(INCOMPLETE,),
            says=f"{module}.py",
            python=False,
            smoke=(COMMAND,) if module == "activate" else (),
        )
        for module in OWN
    ),
    *SYSTEMCTL_FAULTS,
)
