#!/usr/bin/env bash
# Puts the distribution's redis-server under $1/redis, for the tests and benchmarks; changes nothing outside.
#
# A redis-server on PATH is taken as it is.  Where neither can be had, the tests that need one say so and are
# left out: exit 0 all the same.
set -euo pipefail
venv=$(cd "$1" && pwd)
target=$venv/redis
said() { printf 'setup  redis: %s\n' "$*" >&2; exit 0; }

if [ -x "$target/redis-server" ] || command -v redis-server >/dev/null; then exit 0; fi
command -v apt-get >/dev/null && command -v dpkg >/dev/null || said "no redis-server on PATH and no apt to fetch it; its tests are left out"

apt_dir=$target/apt
rm -rf "$target"
mkdir -p "$apt_dir"/{lists/partial,cache/archives/partial} "$target/unpacked" "$target/lib"
private_apt() {
  apt-get -qq -o Dir::State::lists="$apt_dir/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$apt_dir/cache" \
    -o APT::Sandbox::User="$(id -un)" "$@"
}
private_apt update || said "apt could not read the package lists; its tests are left out"
cd "$target/unpacked"
private_apt download redis-server redis-tools || said "the distribution has no redis-server; its tests are left out"
# The libraries it links that the host lacks.
for package in $(dpkg-deb -f redis-tools_*.deb Depends | tr ',' '\n' | sed 's/^ *//; s/[ (|].*//' | sort -u); do
  case $package in
    libc6|adduser|lsb-base|"") ;;
    *) private_apt download "$package" 2>/dev/null || true ;;
  esac
done
for package in ./*.deb; do dpkg -x "$package" .; done
find . -path '*x86_64-linux-gnu/*' -name '*.so*' -exec cp -P {} "$target/lib/" \;
program=$(find . -path './usr/bin/*' \( -name redis-check-rdb -o -name redis-server \) -type f | head -n1)
[ -n "$program" ] || said "the package held no server; its tests are left out"
cp "$program" "$target/server"
cd "$venv"
rm -rf "$apt_dir" "$target/unpacked"
printf '#!/bin/sh\nhere=$(dirname "$(readlink -f "$0")")\nLD_LIBRARY_PATH="$here/lib" exec -a redis-server "$here/server" "$@"\n' > "$target/redis-server"
sed -i '1s,.*,#!/usr/bin/env bash,' "$target/redis-server"
chmod +x "$target/redis-server"
"$target/redis-server" --version >/dev/null || { rm -rf "$target"; said "the unpacked server does not start; its tests are left out"; }
