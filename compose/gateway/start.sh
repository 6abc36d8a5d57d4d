#!/bin/sh
# Fill in the gateway's template and start it. `envsubst` is told which names are ours: nginx has variables of its own.
set -eu
umask 077 # only the gateway reads or changes what is made here
here=$(dirname "$0")

# No key, or one that anybody could guess, or that would mean something in nginx's language: no start.
key=$(cat "${ONEPIECE_KEY_FILE:-/run/onepiece/key}")
case $key in
    *[!0-9A-Za-z_-]*) key= ;;
esac
if [ "${#key}" -lt 32 ] || [ "${#key}" -gt 256 ]; then
    echo "The key is not one of 32 to 256 letters, digits, _ and -: nothing is started." >&2
    exit 2
fi
# A regular expression, because nginx compares plain strings without regard to case. The scheme has none, the key has.
# shellcheck disable=SC2016 # these are nginx's variables
printf 'map $http_authorization $onepiece_key {\n    default 0;\n    "~^(?i:Bearer) +%s$" 1;\n}\n' "$key" > "$ONEPIECE_KEY_CONF"

names=$(grep -o '\${ONEPIECE_[A-Z_]*}' "$here/nginx.conf.template" | sort -u | tr '\n' ' ')
envsubst "$names" < "$here/nginx.conf.template" > "$ONEPIECE_RUN/nginx.conf"
if nginx -e stderr -t -c "$ONEPIECE_RUN/nginx.conf" 2>&1 | grep -q 'invalid parameter "resolve"'; then
    echo "This nginx is older than 1.27.3: it looks up the servers' addresses once. Restart it if one comes back with another." >&2
    sed -i 's/^\( *server .*\) resolve /\1 /' "$ONEPIECE_RUN/nginx.conf"
fi
exec nginx -e stderr -c "$ONEPIECE_RUN/nginx.conf" -g 'daemon off;'
