# shellcheck shell=bash
# What the scripts of this folder share: messages, options, hosts, and commands that --dry-run shows. They source it.

dry_run=false
hosts=() # by read_hosts
run_arguments=() workdir='' # by read_options

say() { echo "${0##*/}: $1" >&2; }

die() {
    say "$1"
    exit 2
}

# The comment that a script begins with.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

# read_options "VALUES" "FLAGS" ARGUMENTS: --some-name=value or --some-name value sets the variable some_name, a flag
# sets its variable to true, and the arguments of the run, from --config, --workdir or -- on, become run_arguments.
read_options() {
    local values=" $1 " flags=" $2 dry-run " option given
    shift 2
    while (($#)); do
        option=${1%%=*} option=${option#--}
        case $1 in
            --help) usage && exit 0 ;;
            --) shift && break ;;
            --config | --config[=.]* | --workdir | --workdir=*) break ;;
            --*)
                if [[ $flags == *" $option "* && $1 != *=* ]]; then
                    given=true
                elif [[ $values != *" $option "* ]]; then
                    die "unknown option $1: --help tells of all, and -- comes before the arguments of the run"
                elif [[ $1 == *=* ]]; then
                    given=${1#*=}
                else
                    (($# > 1)) || die "$1 has no value"
                    given=$2 && shift
                fi
                [[ $given ]] || die "--$option has no value"
                printf -v "${option//-/_}" %s "$given"
                ;;
            *) die "unexpected argument $1" ;;
        esac
        shift
    done
    # shellcheck disable=SC2034
    run_arguments=("$@")
    local config=''
    while (($#)); do
        case $1 in
            --config=*) config=${1#*=} ;;
            --config) config=${2-} ;;
            --workdir=*) workdir=${1#*=} ;;
            --workdir) workdir=${2-} ;;
        esac
        shift
    done
    [[ $config && $workdir ]] || die "the run needs --config=FILE and --workdir=DIR"
}

# require NAME …: each of these options must have a value.
require() {
    local option variable
    for option in "$@"; do
        variable=${option//-/_}
        [[ ${!variable} ]] || die "--$option is missing"
    done
}

# require_numbers NAME …: each of these options must be a whole number.
require_numbers() {
    local option variable
    for option in "$@"; do
        variable=${option//-/_}
        [[ ${!variable} =~ ^[0-9]+$ ]] || die "--$option is ${!variable}: it must be a whole number"
    done
}

# read_hosts FILE: the first word of each line, without what follows a colon, becomes an element of hosts.
read_hosts() {
    [[ -f $1 ]] || die "there is no file $1"
    mapfile -t hosts < <(sed 's/^[[:space:]]*//; s/[#:[:space:]].*//; /^$/d' "$1")
    ((${#hosts[@]})) || die "$1 names no host"
}

# Its arguments as a shell reads them back.
quoted() {
    local word line='' quote="'\\''"
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//\'/"$quote"}'"
        line+="${line:+ }$word"
    done
    echo "$line"
}

# Runs a command, or with --dry-run shows it.
run() {
    if [[ $dry_run == true ]]; then
        echo "+ $(quoted "$@")"
    else
        "$@"
    fi
}
