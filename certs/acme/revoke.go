package acme

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"

	"golang.org/x/crypto/acme"

	"github.com/keyway-edge/keyway/certs/issue"
	"github.com/keyway-edge/keyway/secrets"
)

// Condemn tells the authority that issued a certificate that its key was
// compromised (RFC 8555, section 7.6). The request is signed with that very key, so
// that no account is needed.
func (s *Source) Condemn(ctx context.Context, l secrets.Lease) error {
	p, err := issue.Decode(l.Value)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(p.Cert.Reveal())
	if block == nil {
		return errors.New("the pair holds no certificate")
	}
	key, err := parseKey(string(p.Key.Reveal()))
	if err != nil {
		return err
	}
	err = errors.New("none of the issuer's directories issued it")
	for _, a := range s.authorities {
		if !sameHost(a.cfg.URL, l.Origin) {
			continue
		}
		c, failed := a.session(ctx)
		if failed == nil {
			failed = c.RevokeCert(ctx, key, block.Bytes, acme.CRLReasonKeyCompromise)
		}
		if failed == nil {
			return nil
		}
		err = fmt.Errorf("at %s: %w", a.cfg.URL, failed)
	}
	return err
}

// sameHost says that an order's URL is of a directory's server.
func sameHost(directory, order string) bool {
	a, err := url.Parse(directory)
	if err != nil {
		return false
	}
	b, err := url.Parse(order)
	return err == nil && a.Host == b.Host
}
