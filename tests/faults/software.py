"""Faults of software: Python, the modules that ESS imports, its own."""

from faults.fault import COMMAND, TOUCH, Fault, Made, script
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
)
