#!/bin/sh
# Make what must be secret, once: the gateway's key and Grafana's password. They live in volumes, never in a file of the course.
# Whoever makes them is root without any capability; the group of those who may read them is chosen with `group_add`.
set -eu
umask 027

random() {
    head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

# A temporary name first: a start that is cut off must not leave half a key behind.
keep() {
    chgrp "$1" "$3.part"
    chmod "$2" "$3.part"
    mv "$3.part" "$3"
}

cd /run/onepiece/key
chgrp 101 . && chmod 750 .
if [ ! -s key ]; then
    random > key.part
    keep 101 440 key
fi
# One that somebody put there is held to what the gateway asks of it too (gateway/start.sh), before any server is started.
case $(cat key) in
    *[!0-9A-Za-z_-]* | "") echo "The key has other characters than letters, digits, _ and -." >&2; exit 2 ;;
esac

cd /run/onepiece/grafana
if [ ! -s password ]; then
    random > password.part
    keep 0 440 password
fi
