#!/usr/bin/env bash
# Puts PyTorch and FuxiCTR under $1/peer, an environment of its own: the training benchmark is held against them, and
# nothing else needs them.  About 5 GB, most of it what PyTorch's wheels bring for GPUs.  A no-op when nothing changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$1
target=$venv/peer
fingerprint=$(sha256sum < environment/peer.lock)
if [ "$(cat "$target/.fingerprint" 2>/dev/null)" = "$fingerprint" ]; then exit 0; fi
home=$(sed -n 's/^home = //p' "$venv/pyvenv.cfg")
rm -rf "$target"
"$venv/bin/uv" venv --quiet --python "$home/python3.11" "$target"
"$venv/bin/uv" pip sync --quiet --python "$target/bin/python" --require-hashes --link-mode "${UV_LINK_MODE:-hardlink}" environment/peer.lock
"$target/bin/python" -c 'import fuxictr.pytorch.layers, torch; print("setup  peer: torch", torch.__version__)' >&2
echo "$fingerprint" > "$target/.fingerprint"
