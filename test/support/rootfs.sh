#!/usr/bin/env bash
# For tests: makes DIR, a new or empty folder, a plain Debian 12, as containers begin with, that trusts whom this machine trusts and
# fetches packages as it does. Wants root and debootstrap; what it took a minute to make stays in the user's cache.
# Usage: test/support/rootfs.sh DIR
set -euo pipefail
root=${1:?usage: test/support/rootfs.sh DIR}
if [ -n "$(ls -A "$root" 2>/dev/null)" ]; then echo "$root is not empty" >&2 && exit 1; fi

authorities=(/usr/local/share/ca-certificates/*.crt)
[ -e "${authorities[0]}" ] || authorities=()
fetching=$(apt-config dump | grep -E '^Acquire::(https?|Check-)' || true) # proxies and the like

made_from=$({ cat "$0" "${authorities[@]}" && echo "$fetching"; } | sha256sum | cut -c -12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/img2vid-tests/debian-12-$made_from.tar
mkdir -p "${cache%/*}"
exec 9>"$cache.lock" # two tests may want it at the same time
flock 9
if [ ! -e "$cache" ]; then
  making=$(mktemp -d "${cache%/*}/making-XXXXXX")
  trap 'rm -rf "$making"' EXIT
  debootstrap --variant=minbase --include=ca-certificates bookworm "$making/root" >&2
  echo "$fetching" >"$making/root/etc/apt/apt.conf.d/99machine"
  [ ${#authorities[@]} -eq 0 ] || cp "${authorities[@]}" "$making/root/usr/local/share/ca-certificates/"
  chroot "$making/root" update-ca-certificates >&2
  rm -rf "$making"/root/var/cache/apt/archives/*.deb "$making"/root/var/lib/apt/lists/*
  tar -cf "$making/tar" -C "$making/root" --numeric-owner .
  mv "$making/tar" "$cache"
fi
flock -u 9
mkdir -p "$root"
tar -xpf "$cache" -C "$root" --numeric-owner
