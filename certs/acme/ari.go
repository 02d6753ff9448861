package acme

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	ariLeast  = time.Hour
	ariMost   = 24 * time.Hour
	ariUsual  = 6 * time.Hour
	ariFailed = time.Hour
)

// certID names a certificate to its authority (RFC 9773, section 4.1); "" for one
// that does not say which key signed it.
func certID(leaf *x509.Certificate) string {
	serial, err := asn1.Marshal(leaf.SerialNumber) // as in DER: a sign bit needs a byte more
	if err != nil || len(leaf.AuthorityKeyId) == 0 || len(serial) < 3 {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(leaf.AuthorityKeyId) + "." + base64.RawURLEncoding.EncodeToString(serial[2:])
}

// suggestion asks when the authority suggests to renew a certificate, and when to
// ask again. A nil window means that it has no such service.
func (a *authority) suggestion(ctx context.Context, id string) (*window, time.Duration, error) {
	a.mu.Lock()
	err := a.connect()
	client := a.http
	a.mu.Unlock()
	if err != nil {
		return nil, ariFailed, err
	}
	var dir struct {
		RenewalInfo string `json:"renewalInfo"`
	}
	if _, err := getJSON(ctx, client, a.cfg.URL, &dir); err != nil {
		return nil, ariFailed, err
	}
	if dir.RenewalInfo == "" || id == "" {
		return nil, ariMost, nil
	}
	var info struct {
		Window struct {
			Start time.Time `json:"start"`
			End   time.Time `json:"end"`
		} `json:"suggestedWindow"`
		Explanation string `json:"explanationURL"`
	}
	header, err := getJSON(ctx, client, strings.TrimSuffix(dir.RenewalInfo, "/")+"/"+id, &info)
	if err != nil {
		return nil, ariFailed, err
	}
	if info.Window.Start.IsZero() || !info.Window.Start.Before(info.Window.End) {
		return nil, ariUsual, errors.New("the authority suggests a window that ends before it begins")
	}
	after := ariUsual
	if n, err := strconv.Atoi(header.Get("Retry-After")); err == nil {
		after = min(max(time.Duration(n)*time.Second, ariLeast), ariMost)
	}
	return &window{Start: info.Window.Start, End: info.Window.End, Why: info.Explanation}, after, nil
}

func getJSON(ctx context.Context, client *http.Client, url string, into any) (http.Header, error) {
	if !strings.HasPrefix(url, "https://") {
		return nil, fmt.Errorf("%w: it names a URL without TLS", errDirectory)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDirectory, err)
	}
	req.Header.Set("User-Agent", "keyway")
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking for renewal information: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking for renewal information: the answer is %s", resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return nil, fmt.Errorf("asking for renewal information: %w", err)
	}
	return resp.Header, nil
}
