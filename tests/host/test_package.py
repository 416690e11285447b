"""Package: no maintainer script ever stops, starts or unlatches trading."""

from pathlib import Path

import pytest

from conftest import HostMaker
from host import Host
from kinds import FOUR
from product import ACTIVE, INACTIVE, Ess
from trading import FLAG, Trading
from waiting import SOON, hold, now_ns, wait_until

WATCHERS = ("quantum-ess.path", "quantum-ess-watch.timer", "quantum-ess-sentry.service")
TRIGGERS = ("quantum-ess.service", "quantum-ess-trigger.service")
SENTRY = "quantum-ess-sentry"
CONF = "/etc/quantum-ess/quantum-ess.conf"
NEWER = "/var/cache/newer.deb"

# What apt may do to an installed package; `upgrade` is to a package of a higher version.
DEEDS = {
    "reinstall": ("install", "--reinstall", "/var/cache/{deb}"),
    "upgrade": ("install", NEWER),
    "remove": ("remove", "quantum-ess"),
    "purge": ("purge", "quantum-ess"),
}


@pytest.fixture
def package(deb: Path) -> str:
    """The file name of the package, as it lies in the hosts' /var/cache."""
    return deb.name


def make_newer(host: Host, package: str) -> None:
    """The same package as version 999, in the host."""
    host.sh(
        f"dpkg-deb --raw-extract /var/cache/{package} /var/cache/newer;"
        "sed -i 's/^Version: .*/Version: 999/' /var/cache/newer/DEBIAN/control;"
        f"dpkg-deb --build --root-owner-group /var/cache/newer {NEWER}"
    )


def states(host: Host, *units: str) -> list[str]:
    """What `systemctl is-enabled` and `is-active` say of each unit."""
    enabled = host.run("systemctl", "is-enabled", *units, check=False).stdout.split()
    active = host.run("systemctl", "is-active", *units, check=False).stdout.split()
    return [f"{one} {other}" for one, other in zip(enabled, active, strict=True)]


def pids(trading: Trading) -> dict[str, int]:
    """Main PIDs of protected and kept units."""
    return {unit: trading.host.main_pid(unit) for unit in trading.units} | trading.kept_pids()


def test_install_beside_running_trading(bare_host: Host, deb: Path) -> None:
    """Nothing is touched; the watchers run; what stops trading is neither enabled nor run."""
    trading = Trading(bare_host)
    trading.start()
    before = pids(trading)
    begun = now_ns()
    bare_host.install(deb)
    assert pids(trading) == before
    assert states(bare_host, *WATCHERS) == ["enabled active"] * len(WATCHERS)
    assert states(bare_host, *TRIGGERS) == ["static inactive"] * 2
    assert not Ess(bare_host).latched()
    assert "quantum-ess" not in bare_host.run("systemctl", "--failed").stdout
    assert trading.born_after(begun) == {}
    pull = trading.pull("flag")
    trading.assert_stopped(pull.time)


@pytest.mark.parametrize("deed", DEEDS)
def test_deeds_beside_running_trading(trading: Trading, package: str, deed: str) -> None:
    host = trading.host
    make_newer(host, package)
    before, begun, sentry = pids(trading), now_ns(), host.main_pid(SENTRY)
    host.apt(*(word.format(deb=package) for word in DEEDS[deed]))
    hold(lambda: trading.born_after(begun), 0.5, "started or restarted")
    assert pids(trading) == before
    trading.all_running()
    assert not Ess(host).latched()
    if deed in ("reinstall", "upgrade"):
        assert states(host, *WATCHERS) == ["enabled active"] * len(WATCHERS)
        assert states(host, *TRIGGERS) == ["static inactive"] * 2
        assert host.main_pid(SENTRY) not in (0, sentry), "it still is the old version"
        pull = trading.pull("flag")
        trading.assert_stopped(pull.time)
    else:
        for unit in FOUR:
            assert "quantum-ess" not in host.properties(unit, "DropInPaths")["DropInPaths"]
        host.run("systemctl", "restart", FOUR[0])
        left = ("list-units", "--all", "--no-legend", "--state=active,failed", "quantum-ess*")
        assert host.run("systemctl", *left).stdout == ""


@pytest.mark.parametrize(("deed", "way"), [("reinstall", "flag"), ("upgrade", "command")])
def test_deeds_while_latched(trading: Trading, package: str, deed: str, way: str) -> None:
    """The latch and its incident outlast the package's files being replaced under them."""
    host = trading.host
    make_newer(host, package)
    pull = trading.pull(way)
    trading.assert_stopped(pull.time, watch=0.1)
    ess = Ess(host)
    ess.wait_complete()
    incident = ess.status()["incident"]
    begun = now_ns()
    host.apt(*(word.format(deb=package) for word in DEEDS[deed]))
    hold(lambda: trading.born_after(begun), 0.5, "started")
    assert ess.first_line() == ACTIVE
    assert ess.status()["incident"] == incident
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    assert ess.incidents() == [incident]
    assert len(ess.named("complete")) == 1
    ess("deactivate")
    trading.all_running()


@pytest.mark.parametrize(("deed", "way"), [("remove", "flag"), ("purge", "command")])
def test_removal_while_latched_is_refused(trading: Trading, deed: str, way: str) -> None:
    """It says what to do; and everything that holds the latch is still there and at work."""
    host = trading.host
    pull = trading.pull(way)
    trading.assert_stopped(pull.time, watch=0.1)
    ess = Ess(host)
    ess.wait_complete()
    begun = now_ns()
    refused = host.apt(*DEEDS[deed], check=False)
    assert refused.returncode != 0
    assert "quantum-ess deactivate" in refused.stdout + refused.stderr
    assert "before this installation" not in refused.stdout + refused.stderr
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    hold(lambda: trading.born_after(begun), 0.5, "started")
    assert states(host, *WATCHERS) == ["enabled active"] * len(WATCHERS)
    assert ess.first_line() == ACTIVE
    ess("deactivate")
    trading.all_running()
    host.apt(*DEEDS[deed])
    trading.all_running()


def test_an_activation_between_the_removals_scripts(trading: Trading, package: str) -> None:
    """The files have gone, so nobody holds it for good: apt fails, and says what to do."""
    host, ess = trading.host, Ess(trading.host)
    postrm = "/var/lib/dpkg/info/quantum-ess.postrm"
    host.sh(f"sed -i '2i mkdir -p /run/quantum; touch {FLAG}' {postrm}")
    failed = host.apt("purge", "quantum-ess", check=False)
    assert failed.returncode != 0
    assert "apt install --reinstall quantum-ess" in failed.stdout + failed.stderr
    # PID 1 still has the gate.
    host.run("systemctl", "stop", *FOUR)
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    again = host.apt("install", "--reinstall", f"/var/cache/{package}")
    assert "was ACTIVE before this installation" in again.stdout + again.stderr
    assert states(host, *WATCHERS) == ["enabled active"] * len(WATCHERS)
    wait_until(ess.latched, SOON, "the latch")
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    ess("deactivate", "--no-start")


def test_a_removal_under_a_policy_leaves_nothing_at_work(trading: Trading) -> None:
    """policy-rc.d(5) may forbid to stop services: this one would kill without its files."""
    host = trading.host
    host.write_file("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    host.apt("remove", "quantum-ess")
    left = ("list-units", "--all", "--no-legend", "--state=active,failed", "quantum-ess*")
    assert host.run("systemctl", *left).stdout == ""
    assert host.run("pgrep", "-f", "quantum-ess", check=False).stdout == ""


def test_the_drills_timer_outlasts_a_removal(trading: Trading, deb: Path) -> None:
    """As it stays enabled it has to be at work again."""
    host = trading.host
    host.run("systemctl", "enable", "--now", "quantum-ess-drill.timer")
    host.apt("remove", "quantum-ess")
    host.install(deb)
    assert states(host, "quantum-ess-drill.timer") == ["enabled active"]


def test_a_purge_ends_well_beside_mounts_and_links(trading: Trading) -> None:
    host = trading.host
    host.sh("mv /run/quantum /run/elsewhere; ln -s elsewhere /run/quantum")
    host.sh("mount -t tmpfs none /var/lib/quantum-ess; touch /var/lib/quantum-ess/x")
    host.apt("purge", "quantum-ess")
    assert host.sh("dpkg-query -W -f '${db:Status-Status}' quantum-ess || :") in (
        "",
        "not-installed",
    )
    assert host.sh("ls -A /var/lib/quantum-ess") == ""


def test_a_removal_in_a_chroot_that_has_the_host_s_run(trading: Trading) -> None:
    """It is another system's package, and this host's emergency stop."""
    host, ess, root = trading.host, Ess(trading.host), "/srv/root"
    host.sh(
        f"mkdir -p {root}; mount -t tmpfs none {root}; cd {root}; mkdir tmp\n"
        "for each in usr run proc dev var/lib/dpkg; do\n"
        "mkdir -p $each; mount --bind /$each $each; done\n"
        "for each in bin lib lib64; do ln -s usr/$each $each; done\n"
        "cp /var/lib/dpkg/info/quantum-ess.p* tmp"
    )
    ess("activate")
    # That system's own record is on its own disk: its next boot would trade.
    host.sh(f"mkdir -p {root}/var/lib/quantum-ess; touch {root}/var/lib/quantum-ess/latched")
    prerm = ("chroot", root, "/bin/sh", "/tmp/quantum-ess.prerm", "remove")
    assert "not removed" in host.run(*prerm, check=False).stderr
    host.sh(f"rm {root}/var/lib/quantum-ess/latched")
    for script in ("prerm remove", "postrm remove", "postrm purge"):
        host.run("chroot", root, "/bin/sh", *f"/tmp/quantum-ess.{script}".split())
    assert host.exists("/run/quantum-ess/plan") and host.exists(FLAG)
    assert ess("deactivate").stdout.splitlines()[-1] == INACTIVE
    trading.all_running()


def test_install_under_a_flag_that_lies_there(bare_host: Host, deb: Path) -> None:
    """A flag left by something else, with trading running: somebody must decide, not apt."""
    trading = Trading(bare_host)
    trading.start()
    bare_host.sh("mkdir -p /run/quantum; touch /run/quantum/ESS_ON")
    before = pids(trading)
    said = bare_host.install(deb)
    assert "quantum-ess activate" in said and "quantum-ess deactivate" in said
    hold(trading.ended, 1.0, "stopped by an installation")
    assert pids(trading) == before
    assert bare_host.exists(FLAG)
    # What that said: who decides against the stop has nothing stopped.
    bare_host.run("quantum-ess", "deactivate")
    assert pids(trading) == before
    assert Ess(bare_host).named("stopped") == Ess(bare_host).named("living") == []


def test_old_hand_copied_units_are_pointed_out(bare_host: Host, deb: Path) -> None:
    """Units of the same name in /etc/systemd/system override the package's."""
    old = "/etc/systemd/system/quantum-ess.path"
    bare_host.write_file(old, "[Path]\nPathExists=/nowhere\nUnit=quantum-ess-trigger.service\n")
    said = bare_host.install(deb)
    assert old in said
    assert "quantum-ess migrate --apply" in said


def test_watchers_that_were_disabled_stay_so(trading: Trading, package: str) -> None:
    host = trading.host
    make_newer(host, package)
    host.run("systemctl", "disable", "--now", *WATCHERS)
    host.apt("install", NEWER)
    assert states(host, *WATCHERS) == ["disabled inactive"] * len(WATCHERS)


def test_after_a_purge_nothing_is_left(trading: Trading) -> None:
    """After a use, too: files, state, units; and a later installation starts afresh."""
    host = trading.host
    ess = Ess(host)
    ess("activate")
    ess.wait_complete()
    ess("deactivate")
    ess.configure("[redis]\nenabled = no\n")
    host.sh("rm /etc/quantum-ess/quantum-ess.conf.d/test.conf")
    host.run("systemctl", "enable", "--now", "quantum-ess-drill.timer")
    host.apt("purge", "quantum-ess")
    for path in ("/etc/quantum-ess", "/var/lib/quantum-ess", "/run/quantum-ess", "/run/quantum"):
        assert not host.exists(path), path
    names = "-name '*quantum-ess*' -o -name '*quantum_ess*'"
    assert host.sh(f"find /etc /usr /run /var/lib -ignore_readdir_race {names}") == ""
    assert host.sh("systemctl --failed --no-legend") == ""


def test_a_changed_conffile_is_kept(trading: Trading, package: str) -> None:
    host = trading.host
    assert CONF in host.run("dpkg-query", "-W", "-f", "${Conffiles}", "quantum-ess").stdout
    changed = host.read_file(CONF) + "\n# by hand\n"
    host.write_file(CONF, changed)
    make_newer(host, package)
    host.apt("install", NEWER)
    host.apt("remove", "quantum-ess")
    assert host.read_file(CONF) == changed


def test_what_is_installed(host: Host) -> None:
    listed = set(host.run("dpkg", "-L", "quantum-ess").stdout.splitlines())
    for path in (
        "/usr/bin/quantum-ess",
        "/usr/lib/systemd/system-generators/quantum-ess-generator",
        "/usr/share/man/man8/quantum-ess.8.gz",
        "/usr/share/man/man5/quantum-ess.conf.5.gz",
        "/usr/share/bash-completion/completions/quantum-ess",
        *(f"/usr/lib/systemd/system/{unit}" for unit in (*WATCHERS, *TRIGGERS)),
        "/usr/lib/systemd/system/quantum-ess-watch.service",
        CONF,
    ):
        assert path in listed, path
        assert host.exists(path), path
    assert any("tmpfiles.d" in path and path.endswith(".conf") for path in listed)
    needed = host.run("dpkg-query", "-W", "-f", "${Depends}", "quantum-ess").stdout
    assert all(f"python3-{name}" in needed for name in ("jeepney", "daemon", "redis"))
    assert host.sh("stat -c '%a %U:%G' /run/quantum") == "755 root:root\n"
    assert host.sh("stat -c %i /run/quantum /var/run/quantum | uniq | wc -l") == "1\n"
    assert (
        host.run("quantum-ess", "--version")
        .stdout.strip()
        .endswith(
            host.run("dpkg-query", "-W", "-f", "${Version}", "quantum-ess").stdout.split("-")[0]
        )
    )


def test_tmpfiles_make_the_directory_after_a_boot(make_host: HostMaker) -> None:
    host = make_host()
    host.power_cut()
    assert host.sh("stat -c '%a %U:%G' /run/quantum") == "755 root:root\n"
    assert states(host, *WATCHERS) == ["enabled active"] * len(WATCHERS)
    wait_until(lambda: host.unit_state("quantum-ess.path") == "active", 60, "the watch")


def test_bash_completion(host: Host) -> None:
    completion = "/usr/share/bash-completion/completions/quantum-ess"
    ask = f". {completion}; COMP_WORDS=(quantum-ess ''); COMP_CWORD=1; COMP_LINE='quantum-ess '; "
    ask += (
        "COMP_POINT=${#COMP_LINE}; f=$(complete -p quantum-ess | sed 's/.*-F \\([^ ]*\\).*/\\1/'); "
    )
    stub = "_init_completion() { cur=; prev=quantum-ess; words=(quantum-ess ''); cword=1; }; "
    said = host.run(
        "bash", "-c", stub + ask + '$f quantum-ess "" quantum-ess; echo "${COMPREPLY[@]}"'
    )
    assert {"activate", "deactivate", "status"} <= set(said.stdout.split())


def test_exit_statuses_are_documented(host: Host) -> None:
    page = host.sh("gzip -dc /usr/share/man/man8/quantum-ess.8.gz")
    section = page.partition(".Sh EXIT STATUS")[2].partition(".Sh ")[0]
    assert [n for n in range(12) if f".It {n}" not in section] == []
    assert all(word in section for word in ("already", "verified", "permitted", "configuration"))
