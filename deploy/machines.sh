#!/usr/bin/env bash
# Starts and stops a Ray cluster on machines that you reach by ssh, with a token, and swarmloom in its environment.
#
#   deploy/machines.sh start HEAD [WORKER…]      HEAD and WORKER as ssh takes them: host or user@host
#   deploy/machines.sh stop  HEAD [WORKER…]
#
# Settings, from the environment:
#   SWARM_BIN               bin folder of the environment that has swarmloom, on every machine (.swarmloom/venv/bin)
#   SWARM_RUNS              where runs are kept, as `--runs` takes it; a database's URL lets any machine drive a job
#   SWARM_PORT              of the head, for workers and drivers (6379)
#   SWARM_DASHBOARD_PORT    of the head, for `swarm submit` (8265)
#   RAY_AUTH_TOKEN_PATH     the token (~/.ray/auth_token), made if there is none
#
# Each machine keeps its token, settings, log and process number in ~/.swarmloom, readable by its owner alone. A file
# ~/.swarmloom/ray-options there holds further options of `ray start` for that machine, such as --num-gpus=1.
# Nothing secret is ever an argument, which other users of a machine could read.
set -euo pipefail

usage() { sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }
fail() { printf 'machines.sh: %s\n' "$1" >&2; exit 1; }

[ $# -ge 2 ] || usage
verb=$1 head=$2
for machine in "${@:2}"; do
    case $machine in -*) fail "$machine: is no machine" ;; esac
done
shift 2
port=${SWARM_PORT:-6379}
token_file=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}

make_token() {
    [ -s "$token_file" ] && return
    mkdir -p "$(dirname "$token_file")"
    (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$token_file")
    printf 'made a token: %s\n' "$token_file"
}

# on MACHINE NAME=VALUE… : runs stdin there, with the values as variables; all of it travels through ssh's own stdin.
on() {
    local machine=$1 value
    shift
    {
        for value in "$@"; do printf '%s=%q\n' "${value%%=*}" "${value#*=}"; done
        cat
    } | ssh -o BatchMode=yes -- "$machine" bash -s
}

start() {
    on "$1" "role=$2" "bin=${SWARM_BIN:-.swarmloom/venv/bin}" "runs=${SWARM_RUNS:-}" "token=$(cat "$token_file")" \
        "machine=$1" "head=${head#*@}" "port=$port" "dashboard=${SWARM_DASHBOARD_PORT:-8265}" <<'REMOTE' || fail "$1: could not start"
set -euo pipefail
umask 077
cd
mkdir -p .swarmloom
cd .swarmloom
if [ -s pid ] && ps -o args= -p "$(cat pid)" | grep -q 'ray start'; then
    echo "$machine: runs already"
    exit
fi
printf '%s' "$token" >token
case $bin in /*) ;; *) bin=$HOME/$bin ;; esac
{
    printf 'export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=%q\n' "$PWD/token"
    printf 'export RAY_USAGE_STATS_ENABLED=0 PYTHONSAFEPATH=1 PATH=%q:"$PATH"\n' "$bin"
    [ -z "$runs" ] || printf 'export SWARM_RUNS=%q\n' "$runs"
} >environment
chmod 600 token environment
. ./environment
python3 -c 'import swarm' || { echo "$machine: the Python in $bin has no swarmloom; set SWARM_BIN" >&2; exit 1; }
if [ "$role" = head ]; then
    options=(--head "--port=$port" --dashboard-host=0.0.0.0 "--dashboard-port=$dashboard")
else
    options=("--address=$head:$port")
fi
more=()
[ ! -s ray-options ] || read -r -a more <ray-options || true  # the line need not end
cd
nohup setsid ray start "${options[@]}" "${more[@]}" --block </dev/null >.swarmloom/ray.log 2>&1 &
echo $! >.swarmloom/pid
until grep -q 'Ray runtime started' .swarmloom/ray.log; do
    kill -0 "$(cat .swarmloom/pid)" 2>/dev/null || { tail -n 20 .swarmloom/ray.log >&2; exit 1; }
    sleep 0.2
done
echo "$machine: $role started"
REMOTE
}

stop() {
    on "$1" "machine=$1" <<'REMOTE' || { printf 'machines.sh: %s: could not stop\n' "$1" >&2; left=1; }
set -euo pipefail
cd
pid=$(cat .swarmloom/pid 2>/dev/null || true)
if [ -z "$pid" ] || ! ps -o args= -p "$pid" | grep -q 'ray start'; then
    echo "$machine: nothing to stop"
    exit
fi
kill "$pid"
for _ in $(seq 300); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
done
kill -9 "$pid" 2>/dev/null || true
rm -f .swarmloom/pid
echo "$machine: stopped"
REMOTE
}

case $verb in
start)
    make_token
    start "$head" head
    for worker in "$@"; do start "$worker" worker; done
    printf 'submit with: RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=%s swarm submit JOB.yaml --address http://%s:%s\n' \
        "$token_file" "${head#*@}" "${SWARM_DASHBOARD_PORT:-8265}"
    ;;
stop)
    left=0  # a machine that cannot be reached keeps no other from being stopped
    for worker in "$@"; do stop "$worker"; done
    stop "$head"
    exit "$left"
    ;;
*) usage ;;
esac
