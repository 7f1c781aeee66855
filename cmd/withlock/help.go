package main

// help fits a screen of 24 lines and 80 columns.
const help = `Usage: withlock [flags] NAME [--] COMMAND [ARG...]
Runs COMMAND while holding the PostgreSQL advisory lock NAME.
  --db URL           the database; without it PG_CONNECTION_STRING, then
                     DATABASE_URL, then the PG* variables of libpq say
  -n, --try          do not wait for the lock; -w, --wait D: wait no longer
  -s, --shared       hold it together with others that say -s
  --slots N          let N hold it at once; --min-hold D: hold it for D at least
  -E, --conflict-exit-code N   the exit code if the lock is not to be had (1)
  --key SCHEME       what NAME is: name, advisory-lock (as the npm tool has it),
                     int64 (a number) or pair (two, such as 7,42)
  -c TEXT            shell text in COMMAND's place; --on-lost TEXT: if lost
  --kill-after D     how long COMMAND may take to stop when told to (5s)
  --connect-wait D   wait so long for a server that is away (0)
  --dead-client D    a vanished machine's lock is free after D (30s)
  --pooler           accept a connection pooler that pools sessions
  -v, --verbose      say on stderr what happens
  --list [NAME]      print who holds which lock, and who waits; --json, --watch
  --doctor           try what the server's locks are good for
  --version, --help  D is a duration, such as 200ms, 30s or 1h30m
Exit code: COMMAND's, or 128+N if signal N ended it; that of -E if the lock is
taken; 64 usage; 69 no database; 74 the lock was lost; 126 COMMAND cannot be
executed; 127 COMMAND not found.
COMMAND has WITHLOCK_NAME, WITHLOCK_KEY and WITHLOCK_TOKEN in its environment.
`
