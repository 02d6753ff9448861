package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/issue"
	"github.com/keyway-edge/keyway/secrets"
)

// authority is one directory with this node's account there.
type authority struct {
	cfg    Directory
	source *Source
	limit  *limiter

	mu       sync.Mutex   // guards those below; held while an account is made
	client   *acme.Client // nil before the first use and after the account was lost
	trust    []byte       // what the client trusts
	http     *http.Client
	failures int       // in a row, without an answer
	until    time.Time // left alone until then
}

const (
	requestTime = 30 * time.Second
	answerMost  = 4 << 20 // bytes of an answer
)

// account is an account as it is kept for all replicas.
type account struct {
	Directory string `json:"directory"`
	Key       string `json:"key"` // PEM
	URI       string `json:"uri,omitempty"`
}

// name is what messages call it.
func (a *authority) name() string {
	u, err := url.Parse(a.cfg.URL)
	if err != nil {
		return "the directory"
	}
	return u.Host
}

// take answers whether the directory may be asked, and if not, from when on. One
// that is away is asked by one attempt at a time.
func (a *authority) take(now time.Time) (bool, time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failures == 0 {
		return true, time.Time{}
	}
	if now.Before(a.until) {
		return false, a.until
	}
	a.until = now.Add(requestTime)
	return true, time.Time{}
}

// ended takes how an attempt ended.
func (a *authority) ended(err error, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !away(err) {
		a.failures = 0
		return
	}
	a.failures++
	a.until = now.Add(awayWait(a.failures, rand.Float64()))
}

func (a *authority) sparedUntil() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.until
}

// away says that an error tells of a directory that does not answer, not of an
// order that it refused.
func away(err error) bool {
	if err == nil {
		return false
	}
	var problem *acme.Error
	if errors.As(err, &problem) {
		return problem.StatusCode >= http.StatusInternalServerError
	}
	var transport *url.Error
	return errors.As(err, &transport) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errTrust) || errors.Is(err, errDirectory)
}

var (
	errTrust     = errors.New("its ca_file cannot be used")
	errDirectory = errors.New("its directory cannot be read")
)

// problemIs says whether an authority answered with a problem of a type.
func problemIs(err error, kind string) bool {
	var problem *acme.Error
	return errors.As(err, &problem) && strings.EqualFold(problem.ProblemType[strings.LastIndexByte(problem.ProblemType, ':')+1:], kind)
}

// askedToWait is how long an authority asked to be left alone for a set of names.
func askedToWait(err error) time.Duration {
	var problem *acme.Error
	if !errors.As(err, &problem) {
		return 0
	}
	const most = 7 * 24 * time.Hour
	after, limited := acme.RateLimit(problem)
	if !limited && problem.StatusCode == http.StatusTooManyRequests && problem.Header != nil {
		after, _ = time.ParseDuration(problem.Header.Get("Retry-After") + "s")
	}
	return min(max(after, 0), most)
}

// session answers a client whose account is registered.
func (a *authority) session(ctx context.Context) (*acme.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.connect(); err != nil {
		return nil, err
	}
	if a.client != nil {
		return a.client, nil
	}
	acct, err := a.account(ctx)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(acct.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the account key: %w", err)
	}
	c := &acme.Client{Key: key, HTTPClient: a.http, DirectoryURL: a.cfg.URL, RetryBackoff: again, UserAgent: "keyway"}
	if err := a.register(ctx, c); err != nil {
		return nil, err
	}
	a.client = c
	return c, nil
}

// forget drops an account that the authority does not know any more.
func (a *authority) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.client = nil
}

// connect makes the HTTP client, anew when the file that it trusts has changed.
func (a *authority) connect() error {
	var trust []byte
	if a.cfg.CAFile != "" {
		var err error
		if trust, err = os.ReadFile(a.cfg.CAFile); err != nil {
			return fmt.Errorf("%w: %w", errTrust, err)
		}
	}
	if a.http != nil && bytes.Equal(trust, a.trust) {
		return nil
	}
	var pool *x509.CertPool
	if trust != nil {
		if pool = x509.NewCertPool(); !pool.AppendCertsFromPEM(trust) {
			return fmt.Errorf("%w: %s holds no certificate in PEM", errTrust, a.cfg.CAFile)
		}
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: requestTime / 3, MaxIdleConns: 4, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
	}
	a.http = &http.Client{Transport: bounded{transport}, Timeout: requestTime}
	a.trust, a.client = trust, nil
	return nil
}

// bounded cuts answers that are longer than any that makes sense.
type bounded struct{ http.RoundTripper }

// RoundTrip is that of http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, answerMost), resp.Body}
	}
	return resp, err
}

// again says when a request is made again: soon with another nonce, twice when the
// server has trouble, and never when it asks to be left alone, which is the work
// list's business.
func again(n int, _ *http.Request, resp *http.Response) time.Duration {
	const nonces, troubles = 20, 2
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		return -1
	case resp.StatusCode == http.StatusBadRequest && n <= nonces:
		return time.Duration(n) * 20 * time.Millisecond
	case resp.StatusCode >= http.StatusInternalServerError && n <= troubles:
		return time.Duration(n) * time.Second
	}
	return -1
}

// account loads the account that replicas share, or makes its key.
func (a *authority) account(ctx context.Context) (account, error) {
	fail := func(err error) (account, error) {
		return account{}, fmt.Errorf("the account at %s: %w", a.name(), err)
	}
	state, at := a.source.deps.State, a.stateKey()
	for {
		value, version, err := state.Load(ctx, at)
		if err == nil {
			var acct account
			if json.Unmarshal(value, &acct) == nil && acct.Key != "" {
				return acct, nil
			}
		} else if !errors.Is(err, certs.ErrNoState) {
			return fail(err)
		}
		_, text, err := issue.NewKey(issue.DefaultKeyType)
		if err != nil {
			return fail(err)
		}
		acct := account{Directory: a.cfg.URL, Key: string(text.Reveal())}
		if value, err = json.Marshal(acct); err != nil {
			return fail(err)
		}
		if _, err = state.Swap(ctx, at, version, value); err == nil {
			return acct, nil
		}
		if !errors.Is(err, certs.ErrConflict) {
			return fail(err)
		}
	}
}

// stateKey is where the account is kept: one for each directory and binding.
func (a *authority) stateKey() string {
	sum := sha256.Sum256([]byte(a.cfg.URL + "\x00" + a.cfg.EABKeyID))
	return "acme/" + stateName(a.source.cfg.Name) + "/account/" + hex.EncodeToString(sum[:16])
}

// register makes the account known to the authority, which answers the same for one
// that it knows.
func (a *authority) register(ctx context.Context, c *acme.Client) error {
	acct := &acme.Account{}
	for _, mail := range a.source.cfg.Emails {
		acct.Contact = append(acct.Contact, "mailto:"+strings.TrimPrefix(mail, "mailto:"))
	}
	if a.cfg.EABKeyID != "" {
		key, err := a.binding(ctx)
		if err != nil {
			return err
		}
		acct.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: a.cfg.EABKeyID, Key: key}
	}
	if err := a.limit.wait(ctx); err != nil {
		return err
	}
	dir, err := c.Discover(ctx)
	if err != nil {
		var problem *acme.Error
		if !errors.As(err, &problem) && ctx.Err() == nil {
			return fmt.Errorf("%w: %w", errDirectory, err)
		}
		return err
	}
	if dir.ExternalAccountRequired && acct.ExternalAccountBinding == nil {
		return errors.New("the authority wants an account of its own: set eab_kid and eab_hmac_key to what it gave you")
	}
	// The terms are those that terms_agreed is about.
	if _, err := c.Register(ctx, acct, acme.AcceptTOS); err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return fmt.Errorf("registering: %w", err)
	}
	return nil
}

// binding reads the key of external account binding.
func (a *authority) binding(ctx context.Context) ([]byte, error) {
	text := a.cfg.EABKey
	if secrets.IsRef(text) {
		ref, err := secrets.ParseRef(text)
		if err != nil {
			return nil, fmt.Errorf("eab_hmac_key: %w", err)
		}
		value, err := a.source.deps.Lookup(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("eab_hmac_key: %w", err)
		}
		text = string(value.Reveal())
	}
	key, err := decodeHMAC(text)
	if err != nil {
		return nil, fmt.Errorf("eab_hmac_key: %w", err)
	}
	return key, nil
}

// parseKey reads a private key in PEM, PKCS#8. Its error never quotes the text.
func parseKey(text string) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("expected a private key in PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("expected a private key in PKCS#8")
	}
	return signer, nil
}
