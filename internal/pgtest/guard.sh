# Makes a directory for one sandbox and clears up after it:
#
#     guard.sh PARENT-DIRECTORY [STOP-COMMAND...]
#
# It prints the directory, or what went wrong. Then it waits for the end of its
# standard input, a pipe whose other end only the owner of the sandbox holds
# and never writes to. That end comes when the owner closes the sandbox, exits,
# panics or is killed: no way of dying can keep it from coming.
#
# The guard leads a process group of its own, which everything it has to end
# belongs to, but for a server that makes itself a session (pg_ctl does that):
# for it there is the stop command, which is run in the directory.

# A Ctrl-C in the terminal is for the owner, whose end the guard will notice.
# The signals the guard sends to its own group must not end it either.
trap '' HUP INT QUIT TERM

directory=$(mktemp -d "$1/pgtest-XXXXXXXX" 2>&1) || { echo "$directory"; exit 1; }
shift
echo "$directory"
exec >/dev/null 2>&1

read -r _

kill -TERM 0
[ $# -eq 0 ] || (cd "$directory" && "$@")

# A program that is still on its way out may create a file under rm's feet.
for _ in 1 2 3 4 5 6 7 8 9 10; do
	rm -rf "$directory" && break
	sleep 1
done
kill -KILL 0
