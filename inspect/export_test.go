package inspect

// Client writes the other end of a session.
var Client = client
