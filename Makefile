# quantum-ess: `make` alone lists the targets.

SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
export PYTHONDONTWRITEBYTECODE = 1
export DEBIAN_FRONTEND = noninteractive

VERSION := $(shell sed -n '1s/.*(\(.*\)).*/\1/p' debian/changelog)
UPSTREAM := $(firstword $(subst -, ,$(VERSION)))
DEB := dist/quantum-ess_$(VERSION)_all.deb
VENV := .venv/bin

# What the package is made of; directories too, so that a deletion counts.
SOURCES := $(shell find debian etc man monitoring quantum_ess tests/unit pyproject.toml \
	-name __pycache__ -prune -o -print)
SHELL_SCRIPTS := $(wildcard quantum_ess/libexec/*) \
	$(addprefix debian/quantum-ess.,postinst postrm prerm) .ci/run $(wildcard archive/*) \
	$(filter-out %/control,$(wildcard debian/tests/*))

BUILD_PACKAGES := bash-completion build-essential debhelper dh-python dpkg-dev fakeroot \
	pybuild-plugin-pyproject python3-all python3-daemon python3-hypothesis python3-jeepney \
	python3-prometheus-client python3-pytest python3-redis python3-setuptools
TEST_PACKAGES := apt-utils autopkgtest chromium curl fish git gnupg gpgv groff lintian man-db mandoc mmdebstrap mount \
	openssl piuparts procps python3-pip reprepro \
	python3-venv shellcheck strace systemd systemd-container util-linux zsh zstd

# Shell command that installs those of the packages $(1) that are missing.
missing = $(filter-out $(shell dpkg-query -Wf '$${Package} $${db:Status-Status}\n' $(1) \
	2>/dev/null | sed -n 's/ installed$$//p'),$(1))
apt-install = $(if $(call missing,$(1)),apt-get -qq update && \
	apt-get -qqy install --no-install-recommends $(call missing,$(1)))

.PHONY: help
help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## *\(.*\)/\1\t\2/p' Makefile | expand -t 12

.PHONY: root
root:
	@[[ $$EUID = 0 ]] || { echo "make $(MAKECMDGOALS): needs root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

.PHONY: demo
demo: root setup deb  ## the product at work on a Debian 13 host, booted for it (SUITE=bookworm: 12)
	@$(VENV)/python tests/demo.py $(DEB) $(SUITE)

.PHONY: test
test: root setup deb lint unit host-tests  ## every check and test

.PHONY: test-all
test-all: root setup deb lint unit  ## test and test-packaging, side by side: all that CI runs
	@$(call side-by-side,$(HOST_TESTS) tests/archive -m "not long" $(ARGS))

.PHONY: install
install: root  ## install the package on this host (FORCE=1: even if it does not run systemd)
	@if [[ $$(cat /proc/1/comm) != systemd && -z "$(FORCE)" ]]; then
		echo "make install: this host's PID 1 is not systemd, so here nothing would stop or hold" >&2
		echo "anything; 'make install FORCE=1' installs all the same." >&2
		exit 1
	fi
	$(MAKE) --no-print-directory build-setup deb
	apt-get -qy install --reinstall ./$(DEB)

.PHONY: deb
deb: $(DEB)  ## build dist/quantum-ess_VERSION_all.deb

# In a copy, so that the checkout stays clean, beside the upstream's tarball, which is all but
# debian/, and in an environment in which no other Python than Debian's can be found. Without the unit tests: `make unit` runs them, and
# `make test-packaging` builds with them, by each release's own Python.
$(DEB): $(SOURCES)
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT
	mkdir "$$tmp/src"
	tar -c --exclude-vcs --exclude=./dist --exclude=./.venv --exclude=__pycache__ \
		--exclude='.*_cache' --exclude=.hypothesis . | tar -x -C "$$tmp/src"
	tar -c -C "$$tmp/src" --exclude=./debian --transform='s,^\.,quantum-ess-$(UPSTREAM),' --sort=name \
		--mtime="@$$(dpkg-parsechangelog --show-field Timestamp)" --mode=u=rwX,go=rX \
		--owner=0 --group=0 --numeric-owner . | xz >"$$tmp/quantum-ess_$(UPSTREAM).orig.tar.xz"
	(cd "$$tmp/src" && env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME="$$tmp" LC_ALL=C.UTF-8 \
		DEB_BUILD_OPTIONS=nocheck dpkg-buildpackage -us -uc) >"$$tmp/build.log" 2>&1 || { cat "$$tmp/build.log" >&2; exit 1; }
	rm -rf dist; mkdir dist
	find "$$tmp" -maxdepth 1 -type f -exec cp -t dist {} +
	echo "built $@ (log: dist/build.log)"

.PHONY: lint
lint: lint-python lint-shell lint-man lint-units lint-package  ## format, types, shell, man pages, units, package

.PHONY: lint-python
lint-python:
	@PATH=$(CURDIR)/$(VENV):$$PATH
	ruff format --check .
	ruff check .
	mypy quantum_ess tests monitoring

.PHONY: lint-shell
lint-shell:
	shellcheck -x $(SHELL_SCRIPTS)
	shellcheck --shell=bash debian/quantum-ess.bash-completion

# man(1) exits 0 with warnings: what it says counts.
.PHONY: lint-man
lint-man:
	@mandoc -T lint -W warning man/*
	for page in man/*; do
		said=$$(man --warnings -E UTF-8 -l -Tutf8 -Z "$$page" 2>&1 >/dev/null)
		[[ -z $$said ]] || { echo "$$page: $$said" >&2; exit 1; }
	done

# In a root that holds the package and systemd's own units. Verify does not look for the programs
# of an "ExecStart=-".
.PHONY: lint-units
lint-units: $(DEB)
	@root=$$(mktemp -d); trap 'rm -rf "$$root"' EXIT
	dpkg-deb -x $(DEB) "$$root"
	cd "$$root/usr/lib/systemd/system"
	units=($$(find . -maxdepth 1 -type f -name 'quantum-ess*' -printf '%f '))
	for program in bin/sh usr/bin/sleep usr/bin/test; do install -D /bin/true "$$root/$$program"; done
	for program in $$(sed -n 's/^Exec[A-Za-z]*=[-+!:@]*\(\/[^ ]*quantum-ess[^ ]*\).*/\1/p' "$${units[@]}"); do
		[[ -x $$root$$program ]] || { echo "no such program: $$program" >&2; exit 1; }
	done
	cp -an /lib/systemd/system/. .
	said=$$(systemd-analyze verify --man=no --recursive-errors=no --root="$$root" \
		"$${units[@]}" 2>&1) && [[ -z $$said ]] || { echo "$$said" >&2; exit 1; }

# Any hint counts but two, which only Debian 12 has: it asks for an init script for a service without
# a path or timer of its name, and does not know the newest Standards-Version.
.PHONY: lint-package
lint-package: $(DEB)
	@said=$$(lintian --allow-root --pedantic -E -I dist/*.changes 2>&1 |
		grep -Ev ': (package-supports-alternative-init-but-no-init.d-script|newer-standards-version) ' ||
		true)
	[[ -z $$said ]] || { echo "$$said" >&2; exit 1; }

.PHONY: unit
unit:  ## tests that need no host
	@$(VENV)/python -m pytest -q tests/unit tests/monitoring -n $$(nproc)

# Shell command that runs the tests $(1) on both releases, several at a time, since half of the time is
# spent waiting, and then by themselves those that are marked `alone`. Status 5 is pytest's for no test;
# there may be none for the first run if ARGS chooses.
side-by-side = run() { $(VENV)/python -m pytest -q -p no:cacheprovider "$$@" $(1) || \
		case $$? in 5) none+=x ;; *) status=1 ;; esac; }; none='' status=0; \
	run --alone=not -n $$(($$(nproc) + 2)) --dist load; $(if $(ARGS),,[[ -z $$none ]] || status=5;) \
	run --alone=only; [[ $$none != xx ]] || status=5; exit $$status

HOST_TESTS = tests/host tests/faults tests/torture

.PHONY: host-tests
host-tests: root setup $(DEB)  ## tests on Debian 12 and 13 hosts, faults and torture in a sample (root)
	@$(call side-by-side,$(HOST_TESTS) -m "not long" $(ARGS))

.PHONY: test-packaging
test-packaging: root setup deb  ## the package as the archive would test it, on both releases (root)
	@$(call side-by-side,tests/archive $(ARGS))

# Built once and put into both suites: what is built on Debian 12 is what 13 gets.
.PHONY: apt-repo
apt-repo: build-setup setup deb  ## signed APT repository in dist/apt (key: QUANTUM_ESS_APT_KEY)
	@archive/apt-repo dist/apt main=$(DEB) main=$(DEB:_all.deb=.dsc)
	echo "built dist/apt; for each suite one file to copy to /etc/apt/sources.list.d:"
	ls dist/apt/*.sources

.PHONY: dashboard
dashboard: root setup  ## the Grafana dashboard's JSON, anew from monitoring/dashboard.py
	$(VENV)/python monitoring/dashboard.py >monitoring/dashboards/quantum-ess.json

.PHONY: picture
picture: root setup deb  ## the picture of the dashboard in the README, anew from a real Prometheus
	@$(VENV)/pip install -q --disable-pip-version-check matplotlib==3.11.2
	$(VENV)/python tests/picture.py docs/dashboard.png

.PHONY: fuzz
fuzz: setup  ## fuzzers of all that is read from outside, with their counts
	@mkdir -p dist; status=0
	$(VENV)/python -m pytest -q -s --hypothesis-verbosity=verbose tests/unit -k "fuzz or any_bytes" \
		>dist/fuzz.log || status=1
	awk '/(Test case|Trying [a-z ]*example): / {n++} END {print n " examples; the rest is in dist/fuzz.log"}' dist/fuzz.log
	tail -n 1 dist/fuzz.log
	exit $$status

# From a tree that is what git has, so that a release can be made again.
.PHONY: release
release: root  ## all checks, then packages, repository, checksums, SBOM and notes in dist/release (root)
	@[[ -z $$(git status --porcelain) ]] || { git status --short >&2; echo "make release: the tree is not clean" >&2; exit 1; }
	$(MAKE) --no-print-directory test-all apt-repo
	archive/release dist/release

.PHONY: faults
faults: root setup deb  ## all of the fault matrix on booted hosts (ARGS="-m smoke": the key cells)
	@$(call side-by-side,tests/faults $(ARGS))

.PHONY: torture
torture: root setup deb  ## all of the system-call campaign, and 10,000 steps of soak (hours; PART=1/12, SEED=)
	@export TORTURE=all
	$(call side-by-side,tests/torture -s $(ARGS))

.PHONY: bench
bench: root setup deb  ## flag and command to last sign of life, beside systemctl stop (ARGS="--rounds 10")
	@$(VENV)/python tests/bench.py $(DEB) $(ARGS)

.PHONY: profile
profile: root setup deb  ## where the time of one activation goes, by strace (ARGS="--rounds 5")
	@$(VENV)/python tests/milestones.py $(DEB) $(ARGS)

.PHONY: setup
setup: build-setup  ## install what the other targets need (root)
	@$(call apt-install,$(TEST_PACKAGES))
	$(MAKE) -s --no-print-directory .venv/ready

.PHONY: build-setup
build-setup:  ## install what make deb needs (root)
	@$(call apt-install,$(BUILD_PACKAGES))

.venv/ready: .ci/requirements.txt
	/usr/bin/python3 -m venv --clear .venv
	$(VENV)/pip install -q --disable-pip-version-check -r .ci/requirements.txt
	touch $@

.PHONY: clean
clean:  ## remove what the other targets made in the checkout
	rm -rf dist .venv .*_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -r {} +
