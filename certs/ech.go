package certs

import (
	"context"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"strings"
	"sync/atomic"
)

// ECH keeps the keys of Encrypted Client Hello (RFC 9849), turned daily and known
// for 48 hours. Clients find the configuration in DNS, and those with an old one are
// sent the one in use by the server, under a certificate of the public name.
type ECH struct {
	name    string
	ring    *ring
	derived atomic.Pointer[echKeys]
}

// echKeys is what crypto/tls takes of one view of the ring.
type echKeys struct {
	from *ringView
	keys []tls.EncryptedClientHelloKey
}

// NewECH makes the keys for servers behind a public name: the only server name that
// is seen on the wire, for which this node must have a certificate. Replicas share
// them through state; with nil they are of this process alone, and a restart makes
// what DNS tells an old configuration.
func NewECH(publicName string, state SharedState) (*ECH, error) {
	name := strings.ToLower(strings.TrimSuffix(publicName, "."))
	if len(name) > maxName || !strings.Contains(name, ".") || strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.'
	}) || strings.Contains("."+name+".", "..") {
		return nil, fmt.Errorf("ECH public name %q: expected the name of a host, e.g. edge.example.com", publicName)
	}
	return &ECH{name: name, ring: newRing(state, "tls/ech")}, nil
}

// Run turns the keys, and shares them, until ctx ends.
func (e *ECH) Run(ctx context.Context) error {
	e.ring.run(ctx)
	return nil
}

// Sync reads the replicas' keys once, as Tickets.Sync does.
func (e *ECH) Sync(ctx context.Context) error { return e.ring.sync(ctx) }

// RotateNow forgets all keys: clients that know one of them are sent the new one.
func (e *ECH) RotateNow() { e.ring.rotateNow() }

// Status tells how the keys do.
func (e *ECH) Status() RingStatus { return e.ring.status() }

// PublicName is the server name that is seen on the wire.
func (e *ECH) PublicName() string { return e.name }

// Keys is tls.Config.GetEncryptedClientHelloKeys, for the configuration to listen
// with; Policy.Config sets it for those of policies.
func (e *ECH) Keys(*tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) {
	from := e.ring.current.Load()
	if d := e.derived.Load(); d != nil && d.from == from {
		return d.keys, nil
	}
	d := &echKeys{from: from}
	for i, k := range from.keys {
		key, err := echKey(e.name, k.Secret)
		if err != nil {
			return nil, err
		}
		key.SendAsRetry = i == 0
		d.keys = append(d.keys, key)
	}
	e.derived.Store(d)
	return d.keys, nil
}

// ConfigList is what clients need: the value of ech in an HTTPS record of DNS (there
// in base64), with the key in use.
func (e *ECH) ConfigList() ([]byte, error) {
	keys, err := e.Keys(nil)
	if err != nil {
		return nil, err
	}
	config := keys[0].Config
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(config))), config...), nil
}

// echKey derives a key pair from a secret, and writes its configuration: RFC 9849,
// section 4, for DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-128-GCM.
func echKey(name string, secret []byte) (tls.EncryptedClientHelloKey, error) {
	const version, kem, kdf, aead = 0xfe0d, 0x0020, 0x0001, 0x0001
	material, err := hkdf.Key(sha256.New, secret, nil, "keyway ech", 33)
	if err != nil {
		return tls.EncryptedClientHelloKey{}, fmt.Errorf("deriving an ECH key: %w", err)
	}
	private, err := ecdh.X25519().NewPrivateKey(material[:32])
	if err != nil {
		return tls.EncryptedClientHelloKey{}, fmt.Errorf("deriving an ECH key: %w", err)
	}
	public := private.PublicKey().Bytes()
	body := []byte{material[32]} // config_id: a hint, two may be the same
	body = binary.BigEndian.AppendUint16(body, kem)
	body = append(binary.BigEndian.AppendUint16(body, uint16(len(public))), public...)
	body = binary.BigEndian.AppendUint16(body, 4) // of cipher suites
	body = binary.BigEndian.AppendUint16(body, kdf)
	body = binary.BigEndian.AppendUint16(body, aead)
	body = append(body, 64) // maximum_name_length: shorter names are padded to it
	body = append(append(body, byte(len(name))), name...)
	body = binary.BigEndian.AppendUint16(body, 0) // no extensions
	config := binary.BigEndian.AppendUint16(nil, version)
	config = append(binary.BigEndian.AppendUint16(config, uint16(len(body))), body...)
	return tls.EncryptedClientHelloKey{Config: config, PrivateKey: private.Bytes()}, nil
}
