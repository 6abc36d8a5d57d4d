#!/bin/sh
# Fill in the gateway's template and start it. `envsubst` is told which names are ours: nginx has variables of its own.
set -eu
names=$(grep -o '\${ONEPIECE_[A-Z_]*}' /etc/onepiece/nginx.conf.template | sort -u | tr '\n' ' ')
envsubst "$names" < /etc/onepiece/nginx.conf.template > "$ONEPIECE_RUN/nginx.conf"
if nginx -e stderr -t -c "$ONEPIECE_RUN/nginx.conf" 2>&1 | grep -q 'invalid parameter "resolve"'; then
    echo "This nginx is older than 1.27.3: it looks up the servers' addresses once. Restart it if one comes back with another." >&2
    sed -i 's/^\( *server .*\) resolve /\1 /' "$ONEPIECE_RUN/nginx.conf"
fi
exec nginx -e stderr -c "$ONEPIECE_RUN/nginx.conf" -g 'daemon off;'
