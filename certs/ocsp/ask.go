package ocsp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/keyway-edge/keyway/certs"
)

const maxResponse = 64 << 10

// errAway says that the responder could not be asked, whatever the certificate.
var errAway = errors.New("the responder does not answer")

// hostOf names the responder behind a URL; the URL itself when it is none.
func hostOf(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return text
	}
	return u.Host
}

// ask asks the responder of an entry.
func (s *Stapler) ask(ctx context.Context, e *entry, b *certs.Bundle) (answer, error) {
	a, err := s.exchange(ctx, e.url, b)
	if err != nil {
		return answer{}, fmt.Errorf("asking %s about certificate %s: %w", e.url, b.Serial, err)
	}
	return a, nil
}

func (s *Stapler) exchange(ctx context.Context, to string, b *certs.Bundle) (answer, error) {
	leaf, issuer, err := b.Parents()
	if err != nil {
		return answer{}, err
	}
	query, err := ocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		return answer{}, fmt.Errorf("making the request: %w", err)
	}
	der, err := s.post(ctx, to, query)
	if err != nil {
		return answer{}, err
	}
	return read(der, leaf, issuer, time.Now())
}

// post is the POST of RFC 6960, appendix A.1.
func (s *Stapler) post(ctx context.Context, to string, query []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(query))
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	r.Header.Set("Content-Type", "application/ocsp-request")
	r.Header.Set("Accept", "application/ocsp-response")
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAway, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: it says %s", errAway, resp.Status)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errAway, err)
	case len(body) > maxResponse:
		return nil, fmt.Errorf("%w: what it sends has more than %d bytes", errAway, maxResponse)
	}
	return body, nil
}
