"""Repository: `apt install quantum-ess`, literally; and what is not signed by us is not taken."""

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from conftest import CHECKOUT
from debs import field, previous, repack
from host import CommandFailed, Host
from kinds import FOUR
from product import Ess
from roots import root_tree
from trading import Trading
from waiting import wait_until

URL = "http://127.0.0.1:8080"
SOURCES = "/etc/apt/sources.list.d/quantum-ess.sources"
AGES = itertools.count(60, 60)
Repositories = Mapping[str, Path]


def make_key(home: Path) -> dict[str, str]:
    """A signing key in a directory of its own; the environment that names it."""
    home.mkdir(mode=0o700)
    gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "")
    subprocess.run((*gpg, "--quick-generate-key", "archive", "ed25519", "sign"), check=True)
    listed = subprocess.check_output((*gpg, "--with-colons", "--list-secret-keys"), text=True)
    prints = [row.split(":")[9] for row in listed.splitlines() if row.startswith("fpr:")]
    return {"GNUPGHOME": str(home), "QUANTUM_ESS_APT_KEY": prints[0]}


def publish(out: Path, deb: Path, key: Mapping[str, str]) -> Path:
    """`make apt-repo`'s program: a repository with that package."""
    environment = os.environ | key | {"QUANTUM_ESS_APT_URL": URL}
    command = (CHECKOUT / "archive/apt-repo", out, f"main={deb}")
    subprocess.run(command, check=True, env=environment)
    return out


def evil(genuine: Path, other: Path, forge: Callable[[Path], None], out: Path) -> None:
    """A repository that offers the package of `other` and says what `forge` makes of it."""
    shutil.copytree(other, out)
    for suite in (out / "dists").iterdir():
        forge(suite)


@pytest.fixture(scope="module")
def repositories(
    deb: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Repositories]]:
    """A directory with repositories: old, new, and five that somebody has tampered with."""
    place = tmp_path_factory.mktemp("apt")
    place.chmod(0o755)
    key, stranger = make_key(place / "key"), make_key(place / "stranger")
    try:
        made = {
            "old": publish(place / "old", previous(deb, place), key),
            "new": publish(place / "new", deb, key),
        }
        bad = publish(place / "bad", repack(deb, "999", place), stranger)
        made["another-key"] = bad

        def unsigned(suite: Path) -> None:
            (suite / "InRelease").unlink()
            (suite / "Release.gpg").unlink()

        def release_altered(suite: Path) -> None:
            genuine = (made["new"] / "dists" / suite.name / "InRelease").read_text()
            head, _, signature = genuine.partition("-----BEGIN PGP SIGNATURE-----")
            text = (suite / "Release").read_text()
            start = head.split("\n\n", 1)[0] + "\n\n"
            signed = f"{start}{text}-----BEGIN PGP SIGNATURE-----{signature}"
            (suite / "InRelease").write_text(signed)
            (suite / "Release.gpg").unlink()

        def packages_altered(suite: Path) -> None:
            for name in ("InRelease", "Release", "Release.gpg"):
                shutil.copy(made["new"] / "dists" / suite.name / name, suite / name)

        for forge in (unsigned, release_altered, packages_altered):
            evil(made["new"], bad, forge, place / forge.__name__)
            made[forge.__name__] = place / forge.__name__
        made["deb-altered"] = Path(shutil.copytree(made["old"], place / "deb-altered"))
        for copy in made["deb-altered"].rglob("*.deb"):
            shutil.copy(next(bad.rglob("*.deb")), copy)
        yield place, made
    finally:
        for environment in (key, stranger):
            agent = ("gpgconf", "--homedir", environment["GNUPGHOME"], "--kill", "all")
            subprocess.run(agent, check=False)


def serve(host: Host) -> None:
    """Serve /srv/apt on the host's own loopback, as a web server would."""
    server = ("python3", "-m", "http.server", "--bind", "127.0.0.1", "-d", "/srv/apt", "8080")
    host.run("systemd-run", "--quiet", "--unit=apt-server", *server)
    listens = "ss -ltn 2>/dev/null | grep -q :8080 || grep -q ' 0100007F:1F90 ' /proc/net/tcp"
    wait_until(lambda: host.run("sh", "-c", listens, check=False).returncode == 0, 60, "http")


def use(host: Host, place: Path, made: Repositories, name: str) -> None:
    """Make `name` what the URL shows. The .sources file, with our key, is always that of `new`."""
    # apt asks for what is newer than what it has: each is later than the one before.
    later = time.time() + next(AGES)
    for file in made[name].glob("dists/**/*"):
        os.utime(file, (later, later))
    (place / "served").unlink(missing_ok=True)
    (place / "served").symlink_to(made[name].name)
    text = (made["new"] / f"quantum-ess-{host.release}.sources").read_text()
    host.write_file(SOURCES, text.replace(URL, f"{URL}/served"))


def update(host: Host) -> subprocess.CompletedProcess[str]:
    """`apt-get update` of our source alone: a host has no way to Debian's, but it has its lists."""
    ours = ("-o", f"Dir::Etc::SourceList={SOURCES}", "-o", "Dir::Etc::SourceParts=-")
    return host.apt("update", *ours, "-o", "APT::Get::List-Cleanup=0", check=False)


def version(host: Host) -> str:
    """The installed version; empty if the package is not installed."""
    shown = ("dpkg-query", "-W", "-f", "${Version}", "quantum-ess")
    return host.run(*shown, check=False).stdout


def test_install_upgrade_and_refusals(
    release: str, deb: Path, repositories: tuple[Path, Repositories]
) -> None:
    """Nothing forged is ever installed or offered; then old, then new, and the button works."""
    place, made = repositories
    with Host(release, [root_tree(release)], binds={place: "/srv/apt"}) as host:
        trading = Trading(host)
        trading.start()
        pids = {unit: host.main_pid(unit) for unit in FOUR}
        serve(host)
        for name in ("another-key", "unsigned", "release_altered", "packages_altered"):
            use(host, place, made, name)
            updated = update(host)
            assert updated.returncode != 0, f"{name}: {updated.stdout}"
            assert "999" not in host.run("apt-cache", "policy", "quantum-ess").stdout, name
            assert host.apt("install", "quantum-ess", check=False).returncode != 0, name
            assert version(host) == "", name

        use(host, place, made, "deb-altered")
        assert update(host).returncode == 0
        with pytest.raises(CommandFailed, match=r"Hash Sum mismatch|unexpected size"):
            host.apt("install", "--no-install-recommends", "quantum-ess")
        assert version(host) == ""

        for name, wanted in (("old", f"{field(deb, 'Version')}~previous"), ("new", None)):
            use(host, place, made, name)
            assert update(host).returncode == 0
            host.apt("install", "--no-install-recommends", "quantum-ess")
            assert version(host) == (wanted or field(deb, "Version"))
            assert {unit: host.main_pid(unit) for unit in FOUR} == pids

        # A host that knows the good repository keeps what it has when that is tampered with.
        for name in ("another-key", "unsigned", "release_altered", "packages_altered"):
            use(host, place, made, name)
            update(host)
            host.apt("upgrade")
            assert version(host) == field(deb, "Version"), name

        pull = trading.pull("command")
        assert pull.status == 0
        trading.assert_stopped(pull.time)
        assert Ess(host).latched()
