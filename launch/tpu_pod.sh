#!/usr/bin/env bash
# Trains on a Cloud TPU slice: creates it, copies this code to all its workers, starts the run on all of them. After a
# pre-emption the slice is deleted and created again, and the same command goes on; in the end it is deleted.
# Interrupted, the script leaves it as it is.
#
#     launch/tpu_pod.sh --name=xrt --zone=us-east5-b --accelerator-type=v6e-16 --version=v2-alpha-tpuv6e --spot \
#         --setup='sudo apt-get install -qq nfs-common; mkdir -p xrt_jax/runs; sudo mount SERVER:/SHARE xrt_jax/runs' \
#         -- --config=configs/eurlex57k.py --workdir=runs/eurlex57k --config.data.dir=runs/data
#
# Needs gcloud, logged in, and an ssh key that the ssh-agent holds. The code goes to xrt_jax in the home folder, where
# the run starts. Work directory and data must lie on storage that all workers share and that outlives them: Filestore or
# another NFS server, or by gcsfuse a bucket with hierarchical namespace (others cannot rename folders).
#
#     --name --zone --accelerator-type --version    the slice, as gcloud compute tpus tpu-vm create takes them
#     --project=ID        instead of gcloud's own
#     --spot              cheaper, and pre-empted at any time
#     --setup=COMMAND     runs first on each worker of a slice, for mounts
#     --retries=3         failures of the run without pre-emption after which it is given up
#     --pause=60          seconds before anything is tried again; to create a slice is tried without end
#     --keep              do not delete the slice in the end
#     --dry-run           show the commands
#
# Ends with the run's status: 0, 2 for a mistake that the run has told (not tried again), or that of the last failure.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

name='' zone='' project='' accelerator_type='' version='' setup='' retries=3 pause=60 spot=false keep=false
read_options "name zone project accelerator-type version setup retries pause" "spot keep" "$@"
require name zone accelerator-type version
require_numbers retries pause

where=(--zone="$zone" ${project:+--project="$project"})

tpu() { run gcloud compute tpus tpu-vm "$@" "${where[@]}"; }

slice_state() { tpu describe "$name" --format='value(state)' 2> /dev/null || echo ABSENT; }

create_slice() {
    local options=(--accelerator-type="$accelerator_type" --version="$version")
    [[ $spot == false ]] || options+=(--spot)
    tpu create "$name" "${options[@]}"
}

delete_slice() { tpu delete "$name" --quiet; }

# Returns when the slice is there; gcloud's status 2 is a mistake in the options.
await_slice() {
    local status state
    while state=$(slice_state) && [[ $state != READY ]]; do
        status=0
        case $state in
            ABSENT) create_slice || status=$? ;;
            PREEMPTED | TERMINATED | STOPPED | UNKNOWN | HIDDEN) delete_slice || status=$? ;;
            *) status=1 ;; # on its way to one of these
        esac
        ((status != 2)) || exit 2
        ((status == 0)) || sleep "$pause"
    done
}

# A worker that is gone must not hold ssh for ever.
on_all_workers() {
    tpu ssh "$name" --worker=all --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oConnectTimeout=10 --command="$1"
}

# A run that an earlier start of this script left behind is ended: two must not write to one work directory. SIGTERM
# would not do, jax catches it.
install_code() {
    local packed=build/$name.tar.gz steps
    steps="{ pkill -KILL -f '^[^ ]*python -m xrt_jax[.]main' || true; }"
    [[ -z $setup ]] || steps+=" && { test -e .set-up || ( $setup ) && touch .set-up; }"
    steps+=" && mkdir -p xrt_jax && tar -xzf $name.tar.gz -C xrt_jax && cd xrt_jax"
    steps+=" && python3 -m pip install --user --quiet uv"
    steps+=" && { test -d .venv || python3 -m uv venv --quiet --python 3.11 .venv; }"
    steps+=" && python3 -m uv pip install --quiet --python .venv -e '.[tpu]'"
    run mkdir -p build && run tar -czf "$packed" --exclude=__pycache__ setup.py README.md xrt_jax configs &&
        tpu scp "$packed" "$name:" --worker=all && on_all_workers "$steps || exit 1" # 2 would be taken for the run's
}

# jax finds out the rest, but is asked only where there is this address (xrt_jax/processes.py).
start_run() {
    local address
    address=$(tpu describe "$name" --format='value(networkEndpoints[0].ipAddress)') || return 1
    if [[ $dry_run == true ]]; then
        echo "$address" && address=FIRST_WORKER
    fi
    on_all_workers "cd xrt_jax && exec env JAX_COORDINATOR_ADDRESS=$address:8476 \
.venv/bin/python -m xrt_jax.main $(quoted "${run_arguments[@]}")"
}

if [[ $dry_run == true ]]; then
    create_slice && install_code && start_run
    echo "# With status 0 or 2 this is the end; else the last six again, up to $retries times."
    echo "# After a pre-emption all of this again. In the end, and before a slice is created again:"
    delete_slice
    exit
fi

failures=0
while true; do
    await_slice
    status=0
    { install_code && start_run; } || status=$?
    ((status != 0 && status != 2)) || break
    state=$(slice_state)
    if [[ $state != READY ]]; then
        say "the slice is $state: creating it again"
    elif ((++failures > retries)); then
        break
    else
        say "status $status: starting again, $failures of $retries"
        ((status != 255)) || delete_slice || true # ssh does not reach a worker
    fi
    sleep "$pause"
done

say "the run ended with status $status"
[[ $keep == true ]] || delete_slice || say "slice $name is still there"
exit "$status"
