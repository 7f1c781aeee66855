package txlock

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// copyFromClient recognises a COPY of rows that the client is to send. It is of a
// table, with its columns or without: a COPY of a query goes the other way. STDOUT is
// the same to the server there.
var copyFromClient = regexp.MustCompile(strings.NewReplacer(
	"GAP", `(?:\s|--[^\r\n]*[\r\n]|/\*(?:[^*]|\*+[^*/])*\*+/)`,
	"TABLE", `(?:[^\s"'();,]|"[^"]*")+`,
).Replace(`(?i)^(?:;|GAP)*copyGAP+(?:binaryGAP+)?TABLE(?:GAP*\.GAP*TABLE)*GAP*(?:\((?:[^"()]|"[^"]*")*\)GAP*)?fromGAP+(?:stdin|stdout)(?:\W|$)`))

var errCopyFromClient = errors.New("COPY FROM STDIN has no rows to send here; use the driver's own COPY, as pgx's CopyFrom, inside a WithTx")

// Refuse returns why query cannot be the statement of an Exec, or nil. The server
// would wait for the rows of a COPY while the lock is held, and in one message
// take COMMIT for one.
func (c *Call) Refuse(query string) error {
	if !copyFromClient.MatchString(query) {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", c.Package, lockerr.Keys(c.Keys), errCopyFromClient)
}
