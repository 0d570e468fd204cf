#!/bin/sh
# The package for this machine, unpacked, and installed by its own script with busybox's ash.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"
cd /tmp || exit
must "the package does not unpack" busybox tar -xzf "$here"/package.tar.gz
cd conntracker-*/ || exit
must "install fails" busybox ash ./install
must "not the version of the package" [ "$("$conntracker" -V | head -n 1)" = "$(basename "$PWD" | sed 's/conntracker-\(.*\)-.*/conntracker \1/')" ]
must "no init script" [ -x /etc/init.d/conntracker ]
ok "$("$conntracker" -V | head -n 1)"
