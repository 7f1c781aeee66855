package inspect

// What is between a row of pg_locks and a Lock.
var (
	Client    = client // the other end of a session
	Addresses = addresses
	KeyAt     = keyAt
	PIDs      = pids
)
