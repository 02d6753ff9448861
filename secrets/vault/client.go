package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keyway-edge/keyway/secrets"
)

// Deps is what a Client needs of the node.
type Deps struct {
	// Lookup answers the value of a reference that stands in the settings.
	Lookup func(ctx context.Context, r secrets.Ref) (secrets.Value, error)
	// Events is told of logins and of what a security team must hear; nil for nobody.
	Events func(secrets.Event)
}

// Client talks to one server, logged in. Safe for concurrent use.
type Client struct {
	cfg   Config
	deps  Deps
	http  *http.Client
	pair  atomic.Pointer[tls.Certificate] // shown to the server when it asks
	roots atomic.Pointer[x509.CertPool]   // nil until the first login

	login   sync.Mutex // held by who logs in; guards refusal too
	refusal refusal
	mu      sync.Mutex // guards the group below
	now     *session
	once    string // fingerprint of the wrapping token that was unwrapped
	inner   secrets.Value
}

// session is one login. Immutable.
type session struct {
	api       *api.Client
	accessor  string
	renewable bool
	made      time.Time
	ttl       time.Duration // 0 for a token without end
}

const maxAnswer = 16 << 20

// NewClient makes a client. It does no I/O; Run keeps its login alive.
func NewClient(cfg Config, deps Deps) *Client {
	c := &Client{cfg: cfg, deps: deps}
	if deps.Events == nil {
		c.deps.Events = func(secrets.Event) {}
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: cfg.Timeout}).DialContext,
		MaxIdleConnsPerHost: 8, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: cfg.Timeout, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName,
			// Both are looked up at each login; the chain is judged in VerifyConnection,
			// with the authorities of that moment.
			InsecureSkipVerify:   true, //nolint:gosec // see verify
			VerifyConnection:     c.verify,
			GetClientCertificate: c.certificate,
		},
	}
	c.http = &http.Client{Transport: transport, Timeout: cfg.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c
}

// Close lets go of idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

func (c *Client) verify(state tls.ConnectionState) error {
	opts := x509.VerifyOptions{Roots: c.roots.Load(), DNSName: state.ServerName, Intermediates: x509.NewCertPool()}
	for _, cert := range state.PeerCertificates[1:] {
		opts.Intermediates.AddCert(cert)
	}
	if _, err := state.PeerCertificates[0].Verify(opts); err != nil {
		return fmt.Errorf("verifying the certificate of %s: %w", c.cfg.Address, err)
	}
	return nil
}

func (c *Client) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if pair := c.pair.Load(); pair != nil {
		return pair, nil
	}
	return &tls.Certificate{}, nil
}

// text looks a setting up.
func (c *Client) text(ctx context.Context, t Text, file string) (secrets.Value, error) {
	switch {
	case !t.Literal.IsZero():
		return t.Literal, nil
	case !t.Ref.IsZero():
		if c.deps.Lookup == nil {
			return secrets.Value{}, fmt.Errorf("reference %s cannot be looked up here", t.Ref)
		}
		v, err := c.deps.Lookup(ctx, t.Ref)
		if err != nil {
			return secrets.Value{}, fmt.Errorf("looking up %s: %w", t.Ref, err)
		}
		return v, nil
	case file != "":
		data, err := os.ReadFile(file)
		if err != nil {
			return secrets.Value{}, fmt.Errorf("reading %s: %w", file, errors.Unwrap(err))
		}
		return secrets.NewValue([]byte(strings.TrimSpace(string(data)))), nil
	}
	return secrets.Value{}, nil
}

// trust looks the authorities and the client's pair up.
func (c *Client) trust(ctx context.Context) error {
	ca, err := c.text(ctx, c.cfg.CA, c.cfg.CAFile)
	if err != nil {
		return err
	}
	if !ca.IsZero() {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(ca.Reveal()) {
			return errors.New("ca_cert or ca_file holds no certificate; expected PEM")
		}
		c.roots.Store(pool)
	}
	cert, key := c.cfg.ClientCert, c.cfg.ClientKey
	if c.cfg.Auth.Method == "cert" {
		cert, key = c.cfg.Auth.Cert, c.cfg.Auth.CertKey
	}
	if cert.IsZero() {
		return nil
	}
	cv, err := c.text(ctx, cert, "")
	if err != nil {
		return err
	}
	kv, err := c.text(ctx, key, "")
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cv.Reveal(), kv.Reveal())
	if err != nil {
		return errors.New("the client certificate and its key are no pair; expected both in PEM")
	}
	if old := c.pair.Load(); old == nil || string(old.Certificate[0]) != string(pair.Certificate[0]) {
		c.pair.Store(&pair)
		c.http.CloseIdleConnections() // the next connection shows the new one
	}
	return nil
}

// bare makes a client of the library with a token, and nothing from the environment.
func (c *Client) bare(token string) (*api.Client, error) {
	a, err := api.NewClient(&api.Config{Address: c.cfg.Address, HttpClient: c.http, MaxRetries: 0, DisableRedirects: true})
	if err != nil {
		return nil, fmt.Errorf("making a client for %s: %w", c.cfg.Address, err)
	}
	a.SetMaxRetries(0)
	a.SetHeaders(http.Header{})
	a.AddHeader(api.RequestHeaderName, "true")
	a.ClearNamespace()
	if c.cfg.Namespace != "" {
		a.SetNamespace(c.cfg.Namespace)
	}
	a.SetToken(token)
	return a, nil
}

// Read asks for a path, with query parameters or none.
func (c *Client) Read(ctx context.Context, path string, query map[string][]string) (*api.Secret, error) {
	return c.as(ctx, path, func(a *api.Client) (*api.Response, error) {
		return a.Logical().ReadRawWithDataWithContext(ctx, path, query)
	})
}

// Write sends data to a path.
func (c *Client) Write(ctx context.Context, path string, data map[string]any) (*api.Secret, error) {
	body, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("writing to %s: %w", path, err)
	}
	return c.as(ctx, path, func(a *api.Client) (*api.Response, error) { return a.Logical().WriteRawWithContext(ctx, path, body) })
}

// as makes a call with the login of this moment. One that is refused because the
// login is dead is made once more, with a new one.
func (c *Client) as(ctx context.Context, path string, call func(*api.Client) (*api.Response, error)) (*api.Secret, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	secret, err := c.finish(path, call, s.api)
	if !errors.Is(err, secrets.ErrDenied) || c.alive(ctx, s) {
		return secret, err
	}
	c.forget(s)
	if s, err = c.session(ctx); err != nil {
		return nil, err
	}
	return c.finish(path, call, s.api)
}

// finish makes one call and reads its answer.
func (c *Client) finish(path string, call func(*api.Client) (*api.Response, error), a *api.Client) (*api.Secret, error) {
	resp, err := call(a)
	if resp != nil && resp.Body != nil {
		defer func() { _ = resp.Body.Close() }()
	}
	if err != nil {
		return c.refused(path, resp, err)
	}
	if resp.StatusCode == http.StatusNoContent {
		return &api.Secret{}, nil
	}
	secret, err := api.ParseSecret(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s to %s: %w: it is no JSON", c.cfg.Address, path, secrets.ErrUnavailable)
	}
	return secret, nil
}

// refused sorts the ways of failing into those that the broker tells apart. A secret
// may come with the error: of a deleted version Vault tells the metadata.
func (c *Client) refused(path string, resp *api.Response, err error) (*api.Secret, error) {
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		if errors.Is(err, context.DeadlineExceeded) {
			err = context.DeadlineExceeded
		}
		return nil, fmt.Errorf("asking %s for %s: %w: %w", c.cfg.Address, path, secrets.ErrUnavailable, err)
	}
	said := strings.Join(strings.Fields(strings.Join(answer.Errors, "; ")), " ")
	if answer.RawError {
		said = "no JSON" // it may be anything, an echo of the request too
	}
	base := func(kind error) error {
		return fmt.Errorf("%s answered %d for %s: %w (%s)", c.cfg.Address, answer.StatusCode, path, kind, said)
	}
	switch code := answer.StatusCode; {
	case code == http.StatusNotFound:
		secret, parseErr := api.ParseSecret(io.LimitReader(resp.Body, maxAnswer))
		if parseErr != nil {
			secret = nil
		}
		return secret, base(secrets.ErrNotFound)
	case code == http.StatusForbidden:
		return nil, base(secrets.ErrDenied)
	case code == http.StatusTooManyRequests || code >= 500 && resp.Header.Get("Retry-After") != "":
		return nil, &secrets.Throttled{Err: base(secrets.ErrUnavailable), After: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	case code >= 500, code == http.StatusPreconditionFailed:
		return nil, base(secrets.ErrUnavailable)
	}
	return nil, fmt.Errorf("%s answered %d for %s: %s", c.cfg.Address, answer.StatusCode, path, said)
}

// retryAfter reads the field of that name (RFC 9110, section 10.2.3), 0 for none.
func retryAfter(text string, now time.Time) time.Duration {
	const most = time.Hour
	if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil && n >= 0 {
		return min(time.Duration(n)*time.Second, most)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), most)
	}
	return 0
}
