#!/bin/sh
# start.sh server|sentinel: starts Redis or a Sentinel with the file beside this one.
#
# Both write into their configuration: a server that the Sentinels have made a replica must be one
# after its restart too, and a Sentinel remembers whom it knows. So each has a copy in its data folder.
# At each start the shipped file's settings are put into it anew (a server keeps its role, a Sentinel
# what it has learnt), and this is appended:
#
#   REDIS_ANNOUNCE           HOST:PORT under which the others reach this one, an IP address
#   REDIS_PRIMARY            HOST:PORT of the server that is the primary when all of it starts first
#   REDIS_PASSWORD           what servers and Sentinels show one another
#   HOLDFAST_REDIS_PASSWORD  what the gateways show, as the user `holdfast`
#   REDIS_DATA               the data folder (/data)
set -eu
umask 077

kind=${1:-}
here=$(cd "$(dirname "$0")" && pwd)
data=${REDIS_DATA:-/data}
: "${REDIS_ANNOUNCE:?start.sh: set REDIS_ANNOUNCE to the HOST:PORT of this one}"
: "${REDIS_PRIMARY:?start.sh: set REDIS_PRIMARY to the HOST:PORT of the first primary}"
: "${REDIS_PASSWORD:?start.sh: set REDIS_PASSWORD}"
: "${HOLDFAST_REDIS_PASSWORD:?start.sh: set HOLDFAST_REDIS_PASSWORD}"
case $REDIS_PASSWORD$HOLDFAST_REDIS_PASSWORD in
*[!A-Za-z0-9._~-]*)
    echo "start.sh: passwords may have letters, digits and . _ ~ - only" >&2
    exit 1
    ;;
esac

host=${REDIS_ANNOUNCE%:*} port=${REDIS_ANNOUNCE##*:}
primary_host=${REDIS_PRIMARY%:*} primary_port=${REDIS_PRIMARY##*:}
own=$data/$kind.conf
mkdir -p "$data"

case $kind in
server)
    if [ -e "$own" ]; then
        role=$(grep '^replicaof ' "$own" || true)
    elif [ "$REDIS_ANNOUNCE" = "$REDIS_PRIMARY" ]; then
        role=
    else
        role="replicaof $primary_host $primary_port"
    fi
    {
        cat "$here/redis.conf"
        echo "dir $data"
        echo "port $port"
        echo "replica-announce-ip $host"
        echo "replica-announce-port $port"
        echo "requirepass $REDIS_PASSWORD"
        echo "masterauth $REDIS_PASSWORD"
        # Its own keys and its channel, and nothing that could empty or stop the server.
        echo "user holdfast on >$HOLDFAST_REDIS_PASSWORD ~holdfast:* ~{holdfast:* &holdfast:*" \
            "+@all -@admin -@dangerous +info +role +config|get"
        echo "$role"
    } >"$own.new"
    mv "$own.new" "$own"
    exec redis-server "$own"
    ;;
sentinel)
    if [ ! -e "$own" ]; then
        sed "s/^sentinel monitor holdfast .* \([0-9]*\)\$/sentinel monitor holdfast $primary_host $primary_port \1/" \
            "$here/sentinel.conf" >"$own"
    fi
    # What it has learnt stays; what we say replaces what we said before.
    said=$(sed -n 's/^sentinel \([a-z-]*\) .*/\1/p' "$here/sentinel.conf" | grep -v '^monitor$' | tr '\n' '|')
    quorum=$(sed -n 's/^sentinel monitor holdfast .* \([0-9]*\)$/\1/p' "$here/sentinel.conf")
    sed -E -e '/^(port|dir|requirepass|user) /d' \
        -e "/^sentinel (${said}announce-ip|announce-port|auth-pass|sentinel-pass) /d" \
        -e "s/^(sentinel monitor holdfast .*) [0-9]+\$/\1 $quorum/" "$own" >"$own.new"
    {
        grep '^sentinel ' "$here/sentinel.conf" | grep -v '^sentinel monitor '
        echo "dir $data"
        echo "port $port"
        echo "sentinel announce-ip $host"
        echo "sentinel announce-port $port"
        echo "sentinel auth-pass holdfast $REDIS_PASSWORD"
        echo "sentinel sentinel-pass $REDIS_PASSWORD"
        echo "requirepass $REDIS_PASSWORD"
        # The gateways ask where the primary is, and can change nothing.
        echo "user holdfast on >$HOLDFAST_REDIS_PASSWORD -@all +@connection +ping +info +role" \
            "+sentinel|get-master-addr-by-name +sentinel|replicas +sentinel|sentinels +sentinel|master" \
            "&* +subscribe +psubscribe +unsubscribe +punsubscribe"
    } >>"$own.new"
    mv "$own.new" "$own"
    # Debian has redis-sentinel in a package of its own; it is this.
    exec redis-server "$own" --sentinel
    ;;
*)
    echo "usage: start.sh server|sentinel" >&2
    exit 2
    ;;
esac
