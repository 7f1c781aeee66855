package verdict

import (
	"fmt"
	"strconv"
)

// Token returns what the row of [locksql.Token] says. pkg is the prefix of the message.
func Token(pkg string, row interface{ Scan(dest ...any) error }) (uint64, error) {
	var id string
	err := row.Scan(&id)
	if err == nil {
		var token uint64
		if token, err = strconv.ParseUint(id, 10, 64); err == nil {
			return token, nil
		}
	}
	return 0, fmt.Errorf("%s: token: %w", pkg, err)
}
