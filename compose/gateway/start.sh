#!/bin/sh
# Fill in the gateway's template and start it. `envsubst` is told which names are ours: nginx has variables of its own.
set -eu
names=$(grep -o '\${ONEPIECE_[A-Z_]*}' /etc/onepiece/nginx.conf.template | sort -u | tr '\n' ' ')
envsubst "$names" < /etc/onepiece/nginx.conf.template > "$ONEPIECE_RUN/nginx.conf"
exec nginx -e stderr -c "$ONEPIECE_RUN/nginx.conf" -g 'daemon off;'
