#!/bin/bash
# SPDX-License-Identifier: MIT
# run.sh PLENUM DIFFER CASE [DIFFER-OPTION...]: mounts what CASE says and compares it with the native
# file system. Leaves nothing behind, whatever happens. 77: this cannot be tested here.
set -u
plenum=$1 differ=$2 case=$3
shift 3
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip 'needs root'
[ -w /dev/fuse ] || skip 'no /dev/fuse'

tmp=$(mktemp -d) shm= pid=
work=$tmp
clean() {
    timeout 20 "$plenum" umount "$tmp/m" 2>/dev/null || umount -l "$tmp/m" 2>/dev/null
    if [ -n "$pid" ]; then
        for _ in $(seq 100); do
            kill -0 "$pid" 2>/dev/null || break
            [ "$case" = duct ] || kill "$pid"
            sleep 0.05
        done
        kill -9 "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    fi
    rm -rf --one-file-system ${shm:+"$shm"} "$tmp"
}
trap clean EXIT
trap 'exit 1' INT TERM

# What the native file system can do decides what can be compared.
kind_of() {
    case $(stat -f -c %T "$1") in
    tmpfs) echo tmpfs ;;
    ext2/ext3) echo ext4 ;;
    *) ;;
    esac
}
on_shm() {
    [ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ] || skip '/dev/shm is no tmpfs'
    shm=$(mktemp -d /dev/shm/differ.XXXXXX) work=$shm
}
wait_for() {
    for _ in $(seq 200); do
        "$@" 2>/dev/null && return
        sleep 0.05
    done
    echo "did not happen: $*"
    exit 1
}

opts=suid,dev
case $case in
shm | mem | union-shm | union-mem | union-deep) on_shm ;;
esac
chmod 711 "$tmp" "$work"
mkdir "$work/native" "$tmp/m"
case $case in
mem)
    profile=mem spec=mem:
    ;;
trap)
    [ "$(kind_of "$work")" = tmpfs ] && skip 'the temporary directory is a tmpfs'
    mkdir "$work/low"
    "$plenum" run --door=trap --view "$tmp/m" "$work/low"  -- \
        env ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0" "$differ" -p trap "$@" "$work/native" "$tmp/m"
    exit
    ;;
user)
    # A view of an ordinary user, over what belongs to root and others, beside his own copy of that.
    [ "$(kind_of "$work")" ] || skip "$work is neither tmpfs nor ext4"
    [ -w /dev/fuse ] && unshare -U true || skip 'no user namespaces'
    seed=1 runs=1 pass=()
    while getopts s:r:n:m:v o; do
        case $o in s) seed=$OPTARG ;; r) runs=$OPTARG ;; v) pass+=(-v) ;; *) pass+=("-$o" "$OPTARG") ;; esac
    done
    chmod 755 "$tmp" "$work"
    as_user="setpriv --reuid 64999 --regid 64999 --clear-groups --"
    mknod -m 666 "$tmp/fuse" c 10 229
    for ((; runs-- > 0; seed++)); do
        rm -rf --one-file-system "$work/native" "$work/low" "$tmp/m"
        mkdir -p "$work/native/t" "$work/low/t" "$tmp/m"
        "$differ" -p union -n 250 -m 0 -s $((seed + 300000)) "$work/native/t" "$work/low/t" >"$tmp/said" ||
            { cat "$tmp/said"; exit 1; }
        for d in native low; do # what he could not have copied
            find "$work/$d" -depth \( -type b -o -type c -o -name ... \) -exec rm -rf {} +
            setfacl -R -b "$work/$d"
            find "$work/$d" -exec setfattr -h -x security.foo {} + 2>/dev/null
            chmod -R a+rX,ug-s "$work/$d"
        done
        chown -hR 64999:64999 "$work/native" "$tmp/m"
        timeout 280 unshare -m sh -c 'mount --bind "$0" /dev/fuse && exec "$@"' "$tmp/fuse" $as_user \
            "$plenum" run --door=mount --view "$tmp/m" "$work/low" -- \
            "$differ" -p user -m 0 -R true -s $seed "${pass[@]}" "$work/native/t" "$tmp/m/t" || exit 1
    done
    exit
    ;;
shm | tmp | writeback | noopen | 9p | duct)
    mkdir "$work/behind"
    profile=$(kind_of "$work") spec=host:$work/behind
    [ "$profile" ] || skip "$work is neither tmpfs nor ext4"
    ;;
union | union-shm | union-mem | union-deep)
    [ "$(kind_of "$work")" ] || skip "$work is neither tmpfs nor ext4"
    profile=union spec="union($work/up,$work/low)"
    [ "$case" = union-mem ] && profile=unionmem spec="union(mem:,$work/low)"
    [ "$case" = union-deep ] && spec="union($work/up,$work/mid,$work/low)"
    ;;
*)
    echo "no such case: $case"
    exit 2
    ;;
esac
# A union's lower directory and the native one begin with the same content, which the differ makes on
# both with another sequence; all that is compared is behind then. Where it is deep, the layer in the
# middle is what a union left when it was the top.
case $case in
union*)
    cat >"$tmp/begin" <<'EOF'
if mountpoint -q "$tmp/m"; then
    timeout 60 "$plenum" umount "$tmp/m" || { echo "umount: $?"; exit 1; }
fi
rm -rf --one-file-system "$work/native" "$work/low" "$work/mid" "$work/up"
mkdir -p "$work/native/t" "$work/low/t" "$work/mid" "$work/up"
[ "$case" = union-deep ] && profile=nolinks
"$differ" -p "$profile" -n 250 -m 0 -s "$(($1 + 100000))" "$work/native/t" "$work/low/t" >"$tmp/said" ||
    { cat "$tmp/said"; exit 1; }
if [ "$case" = union-deep ]; then
    timeout 20 "$plenum" mount -o "$opts" "union($work/mid,$work/low)" "$tmp/m" || exit 1
    "$differ" -p "$profile" -n 250 -m 0 -s "$(($1 + 200000))" -R true "$work/native/t" "$tmp/m/t" >"$tmp/said" ||
        { cat "$tmp/said"; exit 1; }
    timeout 60 "$plenum" umount "$tmp/m" || { echo "umount: $?"; exit 1; }
fi
timeout 20 "$plenum" mount -o "$opts" "$spec" "$tmp/m" || { echo "mount: $?"; exit 1; }
EOF
    export plenum differ case work tmp opts spec profile
    "$differ" -p "$profile" -R "bash $tmp/begin" "$@" "$work/native/t" "$tmp/m/t"
    exit
    ;;
writeback)
    [ "$profile" = tmpfs ] && skip 'the temporary directory is a tmpfs'
    profile=writeback opts=$opts,writeback
    ;;
noopen)
    opts=$opts,noopen
    ;;
9p)
    [ "$profile" = tmpfs ] && skip 'the temporary directory is a tmpfs'
    "$plenum" serve "$spec" "unix!$tmp/socket" &
    pid=$! profile=9p spec="9p:unix!$tmp/socket"
    wait_for test -S "$tmp/socket"
    ;;
duct)
    [ "$profile" = tmpfs ] && skip 'the temporary directory is a tmpfs'
    "$plenum" duct -q -o $opts -e "'$plenum' duct -q '$spec' -" - "$tmp/m" &
    pid=$! profile=9p spec=
    wait_for mountpoint -q "$tmp/m"
    ;;
esac
if [ "$spec" ]; then
    timeout 20 "$plenum" mount -o $opts "$spec" "$tmp/m" || exit 1
fi
"$differ" -p "$profile" "$@" "$work/native" "$tmp/m"
