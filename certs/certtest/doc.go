// Package certtest is what tests of certificates share: a certificate authority in
// memory, and the suite that every certs.SharedState has to pass.
package certtest
