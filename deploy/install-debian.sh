#!/bin/sh
# Installs what this machine lacks of deploy/debian-packages.txt; says what; does nothing when all is
# there. As root, or through sudo. Used by `make`.
#
# Some of the packages bring units (docker-registry and nginx listen on every interface, podman offers its
# API and updates containers). None is left running: on a systemd machine the unit is masked in /run while
# its package is installed, so that it never starts, and disabled after; without systemd what was started is
# stopped. A service that was there before is not touched.
set -eu
cd "$(dirname "$0")"
# PACKAGE/UNIT each.
units="docker-registry/docker-registry.service nginx-light/nginx.service podman/podman.socket
    podman/podman.service podman/podman-restart.service podman/podman-auto-update.service
    podman/podman-auto-update.timer postgresql/postgresql.service"

wanted=$(sed 's/#.*//' debian-packages.txt)
if ! command -v dpkg-query >/dev/null; then
    echo "This is not Debian. CAFS's tests and demo need what these packages hold:" $wanted
    exit 0
fi
missing=""
for package in $wanted; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null; then
    as_root="sudo"
else
    echo "These Debian packages are missing:$missing" >&2
    echo "Run this as root: apt-get install$missing" >&2
    exit 1
fi
echo "Installing Debian packages:$missing"

new_units=""
for unit in $units; do
    case " $missing " in *" ${unit%/*} "*) new_units="$new_units ${unit#*/}" ;; esac
done
systemd=no
[ -d /run/systemd/system ] && systemd=yes
for unit in $new_units; do
    [ $systemd = no ] || $as_root systemctl mask --runtime --quiet "$unit"
done

$as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
# shellcheck disable=SC2086 # words are wanted
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
    -o Dpkg::Use-Pty=0 $missing >/dev/null

for unit in $new_units; do
    if [ $systemd = yes ]; then
        $as_root systemctl unmask --runtime --quiet "$unit"
        $as_root systemctl disable --quiet "$unit" 2>/dev/null || true
    else
        $as_root service "${unit%.*}" stop >/dev/null 2>&1 || true
    fi
done
echo "Installed."
