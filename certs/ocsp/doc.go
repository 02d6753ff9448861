// Package ocsp keeps the word of issuers on their certificates at hand: that one
// is still good, to be shown in handshakes, and that one was revoked.
//
// A [Stapler] asks in the background and at nobody's request. The last good answer
// serves until its own end; a responder that is away is asked ever more seldom, one
// probe at a time however many certificates wait for it. A certificate that names
// no responder is none of its business.
package ocsp
