#!/bin/sh
# Plays the shard or the router in the launcher's tests. Notes its pid, arguments and environment in $FAKE_DIR, then does
# what $FAKE_SHARD or $FAKE_ROUTER says. `serve` lasts until a signal; `deaf` ignores SIGTERM; `until_line PART COUNT`
# waits for lines of the launcher's output, `until_noticed` until the launcher saw that this shard is ready. As the
# real ones, it asks for a signal when the launcher dies and checks that it has not died already. Its pid, which tests
# read after they had it killed, appears whole or not at all.
[ -n "$FAKE_TIED" ] || FAKE_TIED=yes exec setpriv --pdeathsig KILL "$0" "$@"
[ "$PPID" = "$QUERN_PARENT_PID" ] || exit 1
role=router
for argument; do
    case "$argument" in --uds-path=*) role=shard socket="${argument#*=}" ;; esac
done
printf '%s\n' "$@" >"$FAKE_DIR/$role.args"
env >"$FAKE_DIR/$role.env"
echo "$QUERN_PARENT_PID" >"$FAKE_DIR/$role.parent"
echo $$ >"$FAKE_DIR/$role.pid.new" && mv "$FAKE_DIR/$role.pid.new" "$FAKE_DIR/$role.pid"
echo $$ >>"$FAKE_DIR/$role.pids"
serve() { exec sleep 1000; }
deaf() { trap '' TERM; serve; }
ready() { : >"$socket"; }
until_line() { until [ "$(grep -c "$1" "$FAKE_DIR/output")" -ge "${2:-1}" ]; do sleep 0.01; done; }
until_noticed() { until_line "Shard ready in" "$(wc -l <"$FAKE_DIR/shard.pids")"; }
log() { echo "2026-01-02T03:04:05.678901Z  INFO text_generation_$role: $*"; }
case $role in
shard) eval "$FAKE_SHARD" ;;
router) eval "$FAKE_ROUTER" ;;
esac
