"""Which files make up a unit: what we read is what PID 1 has read."""

import json

from host import Host

SERVICE = "[Service]\nExecStart=/bin/sleep infinity\n"
UNITS = "a-b-c a-b@ plain -lead-x a--x a- eng@".split()
# For each of these a drop-in of its own; and names that several directories have.
DROP_INS = (
    "a-b-c a-b- a- a-b@ a-b@i a-b@i-j a-b@i- a-@ a-@i a-@i-j a-b-@ a a-b - -lead- a-- al- al-ias"
    " plain other@ other@i eng-"
).split()
PLACES = {
    "/etc/systemd/system": "a-b-c a- a-b@i",
    "/etc/systemd/system.attached": "a-b- a- a-b@",
    "/run/systemd/system": "a- al-ias plain",
    "/usr/lib/systemd/system": "a-b-c a-b@i plain",
}
ASKED = "a-b-c a-b@i a-b@i-j plain al-ias -lead-x a--x a- port eng@i other@i".split()
OURS = """
import json, sys
from quantum_ess.unitfiles import UnitFiles
files = UnitFiles()
print(json.dumps({name: files.paths(name) for name in sys.argv[1:]}))
"""


def test_unit_files_and_drop_ins_are_those_of_pid_1(host: Host) -> None:
    system = "/etc/systemd/system"
    for unit in UNITS:
        host.write_file(f"{system}/{unit}.service", SERVICE)
    for name in (*(f"{name}.service" for name in DROP_INS), "service"):
        host.write_file(f"{system}/{name}.d/{name.replace('@', '.at.')}.conf", "[Unit]\n")
    for place, names in PLACES.items():
        for name in (*(f"{name}.service" for name in names.split()), "service"):
            host.run("mkdir", "-p", f"{place}/{name}.d")
            host.run("touch", f"{place}/{name}.d/same.conf", f"{place}/{name}.d/{place[1:4]}.conf")
    host.run("mkdir", "-p", "/etc/systemd/system.attached/port.service.d")
    host.run("tee", "/etc/systemd/system.attached/port.service", input=SERVICE)
    host.run("touch", "/etc/systemd/system.attached/port.service.d/20-portable.conf")
    host.run("ln", "-s", "plain.service", f"{system}/al-ias.service")
    host.run("ln", "-s", "eng@.service", f"{system}/other@.service")
    host.run("ln", "-s", "/dev/null", f"{system}/plain.service.d/masked.conf")
    host.run("systemctl", "daemon-reload")
    units = [f"{name}.service" for name in ASKED]
    ours = json.loads(host.run("python3", "-c", OURS, *units).stdout)
    for unit in units:
        known = host.properties(unit, "FragmentPath", "DropInPaths")
        theirs = [known["FragmentPath"], *known["DropInPaths"].split()]
        assert ours[unit] == theirs and len(theirs) > 1
