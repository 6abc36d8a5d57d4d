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
# Always written anew from the key. A regular expression, because nginx compares plain strings without regard to case.
# shellcheck disable=SC2016 # these are nginx's variables
printf 'map $http_authorization $onepiece_key {\n    default 0;\n    "~^Bearer %s$" 1;\n}\n' "$(cat key)" > key.conf.part
keep 101 440 key.conf

cd /run/onepiece/grafana
if [ ! -s password ]; then
    random > password.part
    keep 0 440 password
fi
