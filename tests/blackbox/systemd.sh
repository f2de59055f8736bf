#!/bin/bash
# Runs inside a throw-away systemd (scripts/boot-systemd), as root. $1: `system` or `user`, whose service it is.
# Every check that fails is printed and makes the exit status 1.
set -u
scope=$1
unit=hermes-gateway.service
failures=0

if [ "$scope" = user ]; then
	as() { "$SYSTEMD_TEST_AS_USER" "$@"; }
	home=/home/$SYSTEMD_TEST_USER
	config=$home/.config/hermes-gateway/config.toml
	drop_ins=$home/.config/systemd/user/$unit.d
	manager=--user
else
	as() { "$@"; }
	config=/etc/hermes-gateway/config.toml
	drop_ins=/etc/systemd/system/$unit.d
	manager=--system
fi
gateway() { as hermes-gateway "$@"; }
control() { as systemctl $manager "$@"; }
property() { control show -P "$1" $unit; }
journal() { if [ "$scope" = user ]; then as journalctl --user -u $unit --no-pager -o cat "$@"; else journalctl -u $unit --no-pager -o cat "$@"; fi; }
# The journal from here on.
mark() { journal -n 0 --show-cursor | sed -n 's/^-- cursor: //p'; }
since() { journal --after-cursor "$1"; }

step() { echo "== $*"; }
fail() {
	echo "FAILED: $*"
	failures=$((failures + 1))
}
is() { [ "$2" = "$3" ] || fail "$1: $2 instead of $3"; }
has() { grep -qF -- "$3" <<<"$2" || fail "$1: no \"$3\" in: $2"; }
lacks() { ! grep -qF -- "$3" <<<"$2" || fail "$1: \"$3\" in: $2"; }
# Waits until a command succeeds: until SECONDS COMMAND...
until_true() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || { fail "not in time: $*"; return 1; }
		sleep 0.05
	done
}
runs() { gateway status --json 2>/dev/null | grep -q '"state":"running"'; }
pid() { property MainPID; }
is_new() { [ "$(pid)" != 0 ] && [ "$(pid)" != "$1" ] && runs; }
milliseconds() { local now=${EPOCHREALTIME/./}; echo $((now / 1000)); }
# Processes that a tool of ours has started.
tools() { pgrep -f 'sleep 98765' | wc -l; }
no_tools() { [ "$(tools)" -eq 0 ]; }
drop_in() {
	as mkdir -p "$drop_ins"
	as sh -c 'cat >"$1"' sh "$drop_ins/test.conf"
	control daemon-reload
}

as mkdir -p "$(dirname "$config")"
as sh -c 'cat >"$1"' sh "$config" <<-'END'
	[provider]
	kind = "offline"
	[shutdown]
	drain = "2s"
	ask = "1s"
	cut = "2s"
	close = "1s"
	[restart]
	drain = "2s"
	[approvals]
	mode = "off"
END

step install
output=$(gateway service install) || fail "install: $output"
has install "$output" "running, pid"
is state "$(property ActiveState)" active
is type "$(property Type)" notify
is "stop time-out" "$(property TimeoutStopUSec)" 11s
is enabled "$(property UnitFileState)" enabled
runs || fail "the control socket does not answer"
before=$(pid)
output=$(gateway service install) || fail "install again: $output"
has "install again" "$output" "is up to date"
is "pid after a second install" "$(pid)" "$before"
has logs "$(gateway service logs -n 20)" "hermes-gateway 0."
gateway gateway service status >/dev/null || fail "service status of a running one, in the old spelling: $?"
[ "$scope" = system ] || [ -e "/var/lib/systemd/linger/$SYSTEMD_TEST_USER" ] || fail "linger is off"

step restart
before=$(pid)
output=$(gateway restart) || fail "restart: $output"
has restart "$output" "ready"
has restart "$output" "accepted"
is "what systemd did" "$(property Result)" success
[ "$(pid)" != "$before" ] || fail "restart: the same process"
output=$(gateway restart --force) || fail "restart --force: $output"
lacks "restart --force" "$output" "ask over"

step "SIGUSR1 ends with 75 and is started again"
before=$(pid) restarts=$(property NRestarts) cursor=$(mark)
kill -USR1 "$before"
until_true 10 is_new "$before"
is restarts "$(property NRestarts)" $((restarts + 1))
lacks "SIGUSR1" "$(since "$cursor")" "Failed with result"

step "a restart asked for by a tool"
before=$(pid)
output=$(gateway chat 'run: hermes-gateway restart' 2>&1)
until_true 15 is_new "$before"

step "SIGTERM with a tool that ignores it"
cursor=$(mark)
gateway chat --session tool 'run: trap "" TERM HUP; (trap "" TERM; setsid sleep 98765) & sleep 98765; sleep 98765' >/dev/null 2>&1 &
chat=$!
until_true 10 sh -c "[ \$(pgrep -cf 'sleep 98765') -ge 2 ]"
begun=$(milliseconds)
control stop $unit || fail "systemctl stop: $?"
took=$(($(milliseconds) - begun))
wait $chat
[ $took -le 7500 ] || fail "the stop took $took ms, and the budget is 6 s"
is "state after stop" "$(property ActiveState)" inactive
is "result of the stop" "$(property Result)" success
is "tools left" "$(tools)" 0
log=$(since "$cursor")
lacks "a stop in order" "$log" "Killing process"
lacks "a stop in order" "$log" "Killing."
has "a stop in order" "$log" "stopped in"
echo "   the stop took $took ms"

step "a stopped gateway is not running, and stays so"
gateway status >/dev/null; is "status" $? 3
gateway service stop >/dev/null || fail "service stop twice: $?"
gateway service status >/dev/null; is "service status" $? 3

step "stale files are no obstacle"
state=$([ "$scope" = user ] && echo "$home/.local/state/hermes-gateway" || echo /var/lib/hermes-gateway)
printf '{"pid": 1, "start_ticks": 1, "boot_id": "x", "socket": "/nowhere"}' >"$state/gateway.lock"
rm -f "$state/gateway.sock"; python3 -c "import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])" "$state/gateway.sock" 2>/dev/null
output=$(gateway service start) || fail "start with stale files: $output"
until_true 5 runs || fail "it does not answer after a start with stale files"
gateway service start >/dev/null || fail "service start twice: $?"

step "kill -9 loses nothing and leaves nothing"
gateway chat --session tool 'run: setsid sleep 98765' >/dev/null 2>&1 &
chat=$!
until_true 10 sh -c "[ \$(pgrep -cf 'sleep 98765') -ge 1 ]"
before=$(pid)
kill -9 "$before"
wait $chat
until_true 15 is_new "$before"
# The start sweeps them away while it goes on.
until_true 10 no_tools

step "a frozen process: restart gets through"
before=$(pid)
kill -STOP "$before"
gateway status >/dev/null; is "status of a frozen one" $? 2
output=$(gateway restart) || fail "restart of a frozen one: $output"
has "restart of a frozen one" "$output" "SIGKILL"
has "restart of a frozen one" "$output" "state T"
[ "$(pid)" != "$before" ] || fail "restart of a frozen one: the same process"

step "the watchdog ends a frozen process"
drop_in <<-'END'
	[Service]
	WatchdogSec=12s
END
gateway service restart >/dev/null || fail "restart with a shorter watchdog"
before=$(pid) cursor=$(mark)
sleep 13.5
is "fed in time" "$(pid)" "$before"
kill -STOP "$before"
until_true 40 is_new "$before"
has watchdog "$(since "$cursor")" "Watchdog timeout"

step "a wrong configuration is not started again and again"
as cp "$config" "$config.good"
as sh -c 'echo "nonsense = 1" >>"$1"' sh "$config"
output=$(gateway service restart 2>&1) && fail "a restart with a wrong configuration succeeds: $output"
has "wrong configuration" "$output" "configuration is wrong"
sleep 3
is "state with a wrong configuration" "$(property ActiveState)" failed
is "its exit code" "$(property ExecMainStatus)" 78
as cp "$config.good" "$config"

step "given up as crash-looping: restart begins anew"
drop_in <<-'END'
	[Unit]
	StartLimitBurst=3
	StartLimitIntervalSec=60
	[Service]
	RestartSec=100ms
	ExecStartPre=/bin/sh -c '! test -e /run/broken'
END
touch /run/broken
control start $unit 2>/dev/null
given_up() { [ "$(property ActiveState)" = failed ] && journal -n 20 | grep -q 'repeated too quickly'; }
until_true 20 given_up
control start $unit 2>/dev/null && fail "systemd starts it all the same"
rm /run/broken
output=$(gateway restart) || fail "restart of a crash-looping one: $output"
is "state after that" "$(property ActiveState)" active
runs || fail "it does not run after a crash loop"

step "a unit that grants too little is noticed"
drop_in <<-'END'
	[Service]
	TimeoutStopSec=3s
END
gateway service restart >/dev/null || fail "restart with a short time-out"
output=$(gateway doctor)
has doctor "$output" "TimeoutStopSec=3s"
as rm -rf "$drop_ins"
control daemon-reload

step "an edited unit is shown, and not rewritten"
file=$(property FragmentPath)
as sed -i 's/^TimeoutStopSec=.*/TimeoutStopSec=4s/' "$file"
control daemon-reload
output=$(gateway service install 2>&1 </dev/null) && fail "an edited unit is rewritten: $output"
has "edited unit" "$output" "- TimeoutStopSec=4s"
has "doctor on an edited unit" "$(gateway doctor)" "service install"
output=$(gateway service install --yes) || fail "install --yes: $output"
is "stop time-out" "$(property TimeoutStopUSec)" 11s

step uninstall
cursor=$(mark)
output=$(gateway service uninstall) || fail "uninstall: $output"
is "after uninstall" "$(property LoadState)" not-found
lacks uninstall "$(since "$cursor")" "Killing process"
gateway service uninstall >/dev/null || fail "uninstall twice: $?"
is "processes left" "$(pgrep -c hermes-gateway)" 0
[ -e "$state/state.db" ] || fail "the store is gone"

[ $failures = 0 ] || { echo "-- the last of the journal:"; journal -n 60; }
echo "$scope: $failures failures"
[ $failures = 0 ]
