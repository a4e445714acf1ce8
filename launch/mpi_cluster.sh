#!/usr/bin/env bash
# Trains XR-Linear over MPI on the hosts of a file, with MPICH, Intel MPI or Open MPI.
#
#     launch/mpi_cluster.sh --hosts-file=hosts -- \
#         --config=configs/xlinear.py --workdir=runs/xlinear --config.data.dir=DIR
#
# Needs ssh without a password to each host, and on each the same code and environment (pip install -e '.[mpi]') at the
# same place and the work directory on storage that all share; it looks whether this is so. The file has a host a line.
#
#     --hosts-file=FILE
#     --ranks-per-host=1
#     --threads=N         of each rank; by default the ranks of a host share its cores
#     --python=.venv/bin/python
#     --mpiexec=COMMAND   of the MPI library that mpi4py uses; by default that beside python, or else in the PATH
#     --retries=3         starts the same command, which goes on, so often again when ranks were lost
#     --pause=10          seconds before that
#     --dry-run           show the commands
#
# Ends with the run's status; 2 is a mistake that the run has told, and not tried again.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

hosts_file='' ranks_per_host=1 threads='' python=.venv/bin/python mpiexec='' retries=3 pause=10
read_options "hosts-file ranks-per-host threads python mpiexec retries pause" "" "$@"
require hosts-file
require_numbers ranks-per-host retries pause ${threads:+threads}
read_hosts "$hosts_file"
if [[ -z $mpiexec ]]; then
    mpiexec=$(dirname "$python")/mpiexec
    [[ -x $mpiexec ]] || mpiexec=mpiexec
fi
command -v "$mpiexec" > /dev/null || die "there is no $mpiexec"

nr_ranks=$((${#hosts[@]} * ranks_per_host))
case $("$mpiexec" --version 2>&1) in
    *"Open MPI"* | *OpenRTE* | *PRRTE*) # which would bind each rank to one core
        start=("$mpiexec" --hostfile "$hosts_file" -n "$nr_ranks" --map-by "ppr:$ranks_per_host:node" --bind-to none)
        start+=(${threads:+-x NUMBA_NUM_THREADS="$threads"})
        ;;
    *HYDRA* | *Intel*)
        start=("$mpiexec" -f "$hosts_file" -n "$nr_ranks" -ppn "$ranks_per_host")
        start+=(${threads:+-genv NUMBA_NUM_THREADS "$threads"})
        ;;
    *) die "$mpiexec is neither MPICH's nor Open MPI's" ;;
esac
start+=("$python" -m xrt_jax.main "${run_arguments[@]}")

on_host() {
    if [[ $1 == localhost || $1 == "$(hostname)" ]]; then
        run bash -c "$2"
    else
        run ssh -o BatchMode=yes "$1" "$2"
    fi
}

versions='import sys; from importlib.metadata import version as v; '
versions+='print(sys.version.split()[0], *(p + " " + v(p) for p in ("numpy", "scipy", "numba", "mpi4py")))'

# check_hosts FILE: each host must see the file, and tell the same checksum of the code and versions of what computes.
check_hosts() {
    local host look told first=''
    look="cd $(quoted "$PWD") && { test -e $(quoted "$1") || { echo does not see $(quoted "$workdir"); exit 1; }; }"
    look+=" && find xrt_jax configs -name '*.py' | LC_ALL=C sort | xargs cat | cksum | tr '\n' ' '"
    look+=" && $(quoted "$python" -c "$versions")"
    for host in "${hosts[@]}"; do
        told=$(on_host "$host" "$look" 2>&1) || die "$host: ${told##*$'\n'}"
        told=${told##*$'\n'} # ssh may have said something before
        if [[ $dry_run == true ]]; then
            echo "$told"
        elif [[ ${first:=$told} != "$told" ]]; then
            die "$host has other code or packages than ${hosts[0]}: $told, not $first"
        fi
    done
}

if [[ $dry_run == true ]]; then
    check_hosts "$workdir"
    run "${start[@]}"
    exit
fi

mkdir -p "$workdir"
probe=$(mktemp "$workdir/.seen-by-all-XXXXXX") # made now: a folder of the same name on each host would not do
trap 'rm -f "$probe"' EXIT
check_hosts "$probe"
rm "$probe"

for ((again = 1; ; again++)); do
    status=0
    "${start[@]}" || status=$?
    ((status != 0 && status != 2 && again <= retries)) || break
    say "status $status: starting again, $again of $retries"
    sleep "$pause"
done
exit "$status"
