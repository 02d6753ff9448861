package certs

// NewPipe is newPipe, for handshakes in virtual time.
var NewPipe = newPipe
