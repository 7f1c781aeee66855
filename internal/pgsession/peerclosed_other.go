//go:build !linux

package pgsession

// PeerClosed reports whether the other side has closed the connection, and
// whether that is known, which here it never is.
func (s *Session) PeerClosed() (closed, known bool) { return false, false }
