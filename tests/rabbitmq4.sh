#!/usr/bin/env bash
# Runs the tests of jobs on RabbitMQ 4, from Debian 13 (trixie), beside whatever this machine has: `make test-rabbitmq4`.
# The first time it takes some minutes and 400 MB: a Debian of its own in .rabbitmq4/root, which nothing else uses and
# `make clean` removes. The broker runs in there as nobody, in a mount namespace of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  printf 'make test-rabbitmq4: %s\n' "$1" >&2
  exit 1
}

place=$PWD/.rabbitmq4
root=$place/root

[ "$(uname -s)" = Linux ] || fail 'needs Linux: it makes a Debian and changes root into it'
[ "$(id -u)" = 0 ] || fail 'needs root, to make a Debian and to change root into it: run it with sudo, or in a container'
export PATH=$PATH:/usr/sbin:/sbin
need() { command -v "$1" >/dev/null || fail "$1 is missing: install the Debian package $2"; }
need debootstrap debootstrap
need unshare util-linux
need chroot coreutils
unshare --mount true || fail 'this machine forbids mount namespaces (unshare --mount): allow CAP_SYS_ADMIN'

if [ ! -e "$place/made" ]; then
  mkdir -p "$place"
  rm -rf --one-file-system "$root"
  printf 'make test-rabbitmq4: making a Debian 13 with RabbitMQ in %s, once\n' "$root" >&2
  debootstrap --variant=minbase --include=rabbitmq-server trixie "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$place/debootstrap.log" 2>&1 ||
    fail "debootstrap failed ($(tail -n 1 "$place/debootstrap.log")); see $place/debootstrap.log; for a mirror set DEBIAN_MIRROR"
  touch "$place/made"
fi

# What tests/rabbitmq.py starts: each program sees the test's own folder, which is HOME, and gives up root.
mkdir -p "$place/bin"
for program in rabbitmq-server rabbitmqctl epmd; do
  inside=/usr/lib/rabbitmq/bin/$program
  [ "$program" = epmd ] && inside=/usr/bin/epmd
  cat >"$place/bin/$program" <<END
#!/bin/sh
exec unshare --mount sh -c 'mount -t proc proc "\$0/proc" && mkdir -p "\$0\$HOME" && mount --bind "\$HOME" "\$0\$HOME" &&
  exec chroot --userspec=65534:65534 "\$0" "\$@"' '$root' '$inside' "\$@"
END
  chmod 755 "$place/bin/$program"
done

version=$(chroot "$root" dpkg-query -W -f '${Version}' rabbitmq-server)
printf 'make test-rabbitmq4: RabbitMQ %s\n' "$version" >&2
export HUESHIFT_RABBITMQ_BIN=$place/bin HUESHIFT_REQUIRE_ALL=1
exec .venv/bin/pytest -k 'not sql and not postgres and not kafka' \
  tests/contract/test_job_queue.py tests/integration/test_jobs.py "$@"
