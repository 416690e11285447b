"""Where nothing may be started: a chroot, the build of a container's image, policy-rc.d."""

from pathlib import Path

from chroot import Chroot
from debs import previous
from host import Host
from kinds import FOUR
from roots import root_tree
from trading import Trading

INSTALL = "apt-get -y --no-install-recommends install"
POLICY = "#!/bin/sh\nexit 101\n"  # what images are built with
# On Debian 12 dpkg knows systemd's own generators below /lib alone, and takes this directory, which
# is the same one, for ours. To have the file in /lib would be wrong on 13.
GENERATORS = "directory '/usr/lib/systemd/system-generators' not empty so not removed"
LEFT = (
    "find /etc /usr /run /var/lib -ignore_readdir_race"
    " -path /var/lib/dpkg -prune -o -name '*quantum[-_]ess*' -print"
)


def test_chroot_and_image(release: str, deb: Path, tmp_path: Path) -> None:
    """Without a running systemd: every deed succeeds, what watches is enabled, nothing is left."""
    old = previous(deb, tmp_path)
    (tmp_path / deb.name).write_bytes(deb.read_bytes())
    with Chroot(root_tree(release), {tmp_path: "/in"}) as chroot:
        chroot.run(f"printf '{POLICY}' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d")
        said = ""
        for deed in (
            f"{INSTALL} /in/{old.name}",
            f"{INSTALL} /in/{deb.name}",
            f"{INSTALL} --reinstall /in/{deb.name}",
            f"{INSTALL} --allow-downgrades /in/{old.name}",
            "apt-get -y remove quantum-ess",
            f"{INSTALL} /in/{deb.name}",
        ):
            said += chroot.run(deed)
        assert "quantum-ess: " not in said, "nothing is wrong, so nothing is to be said"
        links = chroot.run("ls /etc/systemd/system/*.wants")
        for watcher in (
            "quantum-ess.path",
            "quantum-ess-watch.timer",
            "quantum-ess-sentry.service",
        ):
            assert watcher in links
        assert "quantum-ess.service" not in links
        assert chroot.run("quantum-ess --version").startswith("quantum-ess ")
        said = chroot.run("apt-get -y purge quantum-ess")
        warned = [
            line for line in said.splitlines() if "warning" in line and GENERATORS not in line
        ]
        assert warned == []
        assert chroot.run(LEFT) == ""


def test_policy_rc_d(release: str, deb: Path) -> None:
    """A booted host whose policy forbids starts: installed, gated, but nothing watches; told so."""
    with Host(release, [root_tree(release)]) as host:
        trading = Trading(host)
        trading.start()
        pids = {unit: host.main_pid(unit) for unit in FOUR}
        host.write_file("/usr/sbin/policy-rc.d", POLICY, 0o755)
        host.install(deb)
        assert host.unit_state("quantum-ess.path") == "inactive"
        assert host.unit_state("quantum-ess-sentry.service") == "inactive"
        assert "quantum-ess.path is inactive" in host.run("quantum-ess", "status").stdout
        assert {unit: host.main_pid(unit) for unit in FOUR} == pids
        host.run("quantum-ess", "activate")
        assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
        host.run("quantum-ess", "deactivate")
        host.apt("purge", "quantum-ess")
        assert host.sh(LEFT) == ""
