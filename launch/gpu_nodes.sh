#!/usr/bin/env bash
# Trains on several GPU hosts without a scheduler: starts one process a host over ssh, which takes all GPUs of the host.
#
#     launch/gpu_nodes.sh --hosts=a,b,c -- --config=configs/eurlex57k.py --workdir=runs/eurlex57k
#
# Needs ssh without a password to each host, the same code and environment there at the same place, a work directory
# that all of them share, and bash 4.4 here. The first host's process prints; what others print comes with their name.
#
#     --hosts=a,b,c       the hosts, the first of which coordinates; or --hosts-file=FILE, a host a line
#     --port=12345        of the first host, which the others must reach
#     --dir=DIR           the code's folder on the hosts; by default as here
#     --python=.venv/bin/python
#     --grace=10          seconds that the others get to end by themselves when one has failed; then they are ended
#     --dry-run           show the commands
#
# Ends with the run's status: that of the first process if it failed by itself, else of the first that failed. The same
# command goes on where the run stopped, and with status 2 a mistake has been told.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

hosts_file='' port=12345 dir=$PWD python=.venv/bin/python grace=10
read_options "hosts hosts-file port dir python grace" "" "$@"
require_numbers port grace
# --hosts is in the array's first element.
case ${hosts[*]:+list}${hosts_file:+file} in
    list)
        [[ ,${hosts[0]}, != *,,* ]] || die "--hosts has an empty name"
        IFS=, read -ra hosts <<< "${hosts[0]}"
        ;;
    file) read_hosts "$hosts_file" ;;
    listfile) die "--hosts and --hosts-file exclude one another" ;;
    *) die "--hosts or --hosts-file is missing" ;;
esac

declare -A pids # by the host's number, of those that run

# Sets command to what starts process number $1. With a terminal (-tt) the remote process ends when its ssh does.
compose() {
    local variables=(JAX_COORDINATOR_ADDRESS="${hosts[0]#*@}:$port" JAX_NUM_PROCESSES="${#hosts[@]}")
    variables+=(JAX_PROCESS_ID="$1")
    command=(env "${variables[@]}" "$python" -m xrt_jax.main "${run_arguments[@]}")
    command=(ssh -tt -o BatchMode=yes -o ServerAliveInterval=30 "${hosts[$1]}"
        "cd $(quoted "$dir") && exec $(quoted "${command[@]}")")
}

named() {
    while IFS= read -r line || [[ $line ]]; do echo "$1: ${line%$'\r'}"; done
}

# Notes which processes have ended, and in status how the run failed.
look() {
    local i ended
    for i in "${!pids[@]}"; do
        ! kill -0 "${pids[$i]}" 2> /dev/null || continue
        ended=0
        wait "${pids[$i]}" || ended=$?
        unset "pids[$i]"
        ((ended != 0)) || continue
        say "${hosts[$i]} ended with status $ended"
        ((status != 0 && i > 0)) || status=$ended
    done
}

if [[ $dry_run == true ]]; then
    for i in "${!hosts[@]}"; do compose "$i" && run "${command[@]}"; done
    exit
fi

trap '((${#pids[@]} == 0)) || kill "${pids[@]}" 2> /dev/null || true; wait' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
for i in "${!hosts[@]}"; do
    compose "$i"
    if ((i == 0)); then
        "${command[@]}" < /dev/null &
    else
        "${command[@]}" < /dev/null > >(named "${hosts[$i]}") 2>&1 &
    fi
    pids[$i]=$!
done

status=0
while ((status == 0 && ${#pids[@]} > 0)); do
    sleep 0.2
    look
done
deadline=$((SECONDS + grace))
while ((SECONDS < deadline && ${#pids[@]} > 0)); do
    sleep 0.2
    look
done
exit "$status"
