package certmagiclock

import (
	"github.com/caddyserver/certmagic"

	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// Keep has storage keep a lock for its Unlock.
func Keep(storage certmagic.Storage, name string, lock *sessionlock.Lock) {
	storage.(*locks).keep(name, lock)
}
