#!/bin/sh
# Installs the units of all services. As root:
#   deploy/install-systemd.sh [PROGRAM]     PROGRAM: the absolute path of cafs; by default the one on the PATH
# Starts and enables nothing: docs/operations.md has the order. A second run, after an upgrade, is harmless.
set -eu
cd "$(dirname "$0")/systemd"
program=${1:-$(command -v cafs || true)}
target=${SYSTEMD_UNITS:-/etc/systemd/system}

case $program in
/*) [ -x "$program" ] || { echo "$program is no program" >&2; exit 2; } ;;
*) echo "cafs is not on the PATH; say where it is: $0 /path/to/cafs" >&2; exit 2 ;;
esac
for unit in cafs-*.service; do
    sed "s|^ExecStart=/usr/local/bin/cafs |ExecStart=$program |" "$unit" >"$target/.$unit.new"
    chmod 0644 "$target/.$unit.new"
    mv "$target/.$unit.new" "$target/$unit"
    echo "installed $target/$unit"
done
[ ! -d /run/systemd/system ] || systemctl daemon-reload
