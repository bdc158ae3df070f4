#!/bin/sh
# Makes .venv with a Python of 3.11 or newer and installs Fairlane into it, with the exact versions of
# constraints.txt. Safe to run again; an interrupted run is finished by the next.
# PYTHON=/path/to/python chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."
venv=.venv

say() { printf '%s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
can_make_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

find_python() {
    lame=""
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3 /usr/bin/python3 /usr/local/bin/python3}; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        new_enough "$candidate" || continue
        if can_make_venv "$candidate"; then
            command -v "$candidate"
            return
        fi
        lame=$candidate
    done
    if [ -n "$lame" ]; then
        version=$("$lame" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$lame is new enough, but cannot make a virtual environment (no ensurepip).
       On Debian and Ubuntu: apt install python$version-venv. Or name another: make setup PYTHON=/path/to/python3.12"
    fi
    if [ -n "${PYTHON:-}" ]; then
        fail "PYTHON=$PYTHON is not a Python of 3.11 or newer."
    fi
    fail "no Python of 3.11 or newer on PATH.
       Install one (https://www.python.org/downloads/) or name it: make setup PYTHON=/path/to/python3.12"
}

if ! { [ -x "$venv/bin/python" ] && new_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    python=$(find_python)
    say "setup: making $venv with $python ($("$python" -V))"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

say "setup: installing Fairlane and its pinned dependencies into $venv (1.4 GB on disk; some minutes the first time)"
quiet=--quiet
if [ -t 1 ]; then quiet=--progress-bar=on; fi
"$venv/bin/python" -m pip install "$quiet" --disable-pip-version-check --no-input \
    -c constraints.txt -e ".[native,report,dev]" \
    || fail "pip could not install the dependencies; its message is above. Run make setup again once it is mended."
say "setup: ready"
