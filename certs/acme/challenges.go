package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/certs"
)

const (
	boardKey      = "acme/challenges"
	challengeLife = 15 * time.Minute // an order that takes longer has failed
	pollBusy      = time.Second      // while an order may be open
	pollIdle      = 5 * time.Second
	pollFailed    = 30 * time.Second
	boardTries    = 20
)

// challenge is one proof that an authority may ask this node, or a replica, for.
type challenge struct {
	Kind    string    `json:"kind"` // http-01, tls-alpn-01
	Name    string    `json:"name"`
	Token   string    `json:"token"`
	KeyAuth string    `json:"key_auth"` // no secret: whoever asks gets it
	Until   time.Time `json:"until"`
}

func (c challenge) id() string { return c.Kind + " " + c.Name + " " + c.Token }

// board is the challenges in progress. Immutable.
type board struct {
	tokens map[string]challenge        // HTTP-01, by token
	names  map[string]*tls.Certificate // TLS-ALPN-01, by name
	source map[string]string           // what the certificates were made of, by name
}

// Challenges answers authorities that validate: from memory alone, for tokens and
// names in progress alone. What replicas have in progress is in the shared state
// and read in the background by Run. Safe for concurrent use.
type Challenges struct {
	state certs.SharedState
	log   *slog.Logger
	wake  chan struct{}

	current atomic.Pointer[board]

	mu     sync.Mutex // guards those below and stores to current
	own    map[string]challenge
	shared map[string]challenge
	users  int       // issuers that run
	busy   time.Time // until when an order may be open at a replica
}

// NewChallenges makes Challenges that replicas share through state.
func NewChallenges(state certs.SharedState, log *slog.Logger) *Challenges {
	c := &Challenges{state: state, log: log, wake: make(chan struct{}, 1), own: map[string]challenge{}, shared: map[string]challenge{}}
	c.current.Store(&board{})
	return c
}

// HTTP answers a token that is in progress for a host name: the body of the answer.
func (c *Challenges) HTTP(host, token string) (string, bool) {
	x, ok := c.current.Load().tokens[token]
	if !ok || !strings.EqualFold(x.Name, host) || !time.Now().Before(x.Until) {
		return "", false
	}
	return x.KeyAuth, true
}

// ALPN answers the certificate that proves a name that is in progress.
func (c *Challenges) ALPN(name string) (*tls.Certificate, bool) {
	b := c.current.Load()
	if len(b.names) == 0 {
		return nil, false
	}
	cert, ok := b.names[strings.ToLower(name)]
	return cert, ok && time.Now().Before(cert.Leaf.NotAfter)
}

// Run keeps up with what replicas have in progress, until ctx ends. It asks for
// nothing while no issuer runs.
func (c *Challenges) Run(ctx context.Context) error {
	for {
		wait := c.look(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-c.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// look reads the shared challenges and answers when to look again.
func (c *Challenges) look(ctx context.Context) time.Duration {
	c.mu.Lock()
	idle, busy := c.users == 0, time.Now().Before(c.busy)
	c.mu.Unlock()
	if idle {
		return time.Hour
	}
	list, _, err := c.load(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("the challenges of replicas cannot be read: they are answered by their own nodes alone", slog.Any("error", err))
		}
		return pollFailed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shared = list
	c.rebuild()
	if busy || len(list) > 0 {
		return pollBusy
	}
	return pollIdle
}

// join says that an issuer runs, leave that it ended.
func (c *Challenges) join() {
	c.mu.Lock()
	c.users++
	c.mu.Unlock()
	hint(c.wake)
}

func (c *Challenges) leave() {
	c.mu.Lock()
	c.users--
	c.mu.Unlock()
}

// expect says that a replica has an order open.
func (c *Challenges) expect() {
	c.mu.Lock()
	c.busy = time.Now().Add(time.Minute)
	c.mu.Unlock()
	hint(c.wake)
}

// put begins to answer challenges, here at once and at replicas when they look.
func (c *Challenges) put(ctx context.Context, list []challenge) error {
	c.mu.Lock()
	for _, x := range list {
		c.own[x.id()] = x
	}
	err := c.rebuild()
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.change(ctx, func(all map[string]challenge) {
		for _, x := range list {
			all[x.id()] = x
		}
	})
}

// remove ends answering challenges. Those that it fails to take off the shared board
// end by themselves.
func (c *Challenges) remove(ctx context.Context, list []challenge) {
	c.mu.Lock()
	for _, x := range list {
		delete(c.own, x.id())
		delete(c.shared, x.id())
	}
	_ = c.rebuild() // fewer than before
	c.mu.Unlock()
	err := c.change(ctx, func(all map[string]challenge) {
		for _, x := range list {
			delete(all, x.id())
		}
	})
	if err != nil {
		c.log.Warn("taking challenges off the shared board failed; they end by themselves", slog.Any("error", err))
	}
}

// change changes the shared board with compare and swap.
func (c *Challenges) change(ctx context.Context, f func(map[string]challenge)) error {
	for range boardTries {
		all, version, err := c.load(ctx)
		if err != nil {
			return fmt.Errorf("sharing challenges: %w", err)
		}
		f(all)
		value, err := json.Marshal(slices.SortedFunc(maps.Values(all), func(a, b challenge) int { return strings.Compare(a.id(), b.id()) }))
		if err != nil {
			return fmt.Errorf("sharing challenges: %w", err)
		}
		if _, err = c.state.Swap(ctx, boardKey, version, value); !errors.Is(err, certs.ErrConflict) {
			if err != nil {
				return fmt.Errorf("sharing challenges: %w", err)
			}
			return nil
		}
	}
	return fmt.Errorf("sharing challenges: %w %d times in a row", certs.ErrConflict, boardTries)
}

// load reads the shared board without what has ended.
func (c *Challenges) load(ctx context.Context) (map[string]challenge, string, error) {
	all := map[string]challenge{}
	value, version, err := c.state.Load(ctx, boardKey)
	if errors.Is(err, certs.ErrNoState) {
		return all, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	var list []challenge
	if err := json.Unmarshal(value, &list); err != nil {
		list = nil // of another program; it is replaced
	}
	for _, x := range list {
		if time.Now().Before(x.Until) {
			all[x.id()] = x
		}
	}
	return all, version, nil
}

// rebuild publishes what is in progress. The caller has mu.
func (c *Challenges) rebuild() error {
	was := c.current.Load()
	b := &board{tokens: map[string]challenge{}, names: map[string]*tls.Certificate{}, source: map[string]string{}}
	var errs []error
	for _, list := range []map[string]challenge{c.shared, c.own} { // its own stand
		for _, x := range list {
			if x.Kind == HTTP01 {
				b.tokens[x.Token] = x
				continue
			}
			if b.source[x.Name] = x.KeyAuth; was.source[x.Name] == x.KeyAuth {
				b.names[x.Name] = was.names[x.Name]
				continue
			}
			cert, err := proof(x)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			b.names[x.Name] = cert
		}
	}
	c.current.Store(b)
	return errors.Join(errs...)
}

// proof makes the certificate of RFC 8737, section 3: self-signed, with the digest
// of the key authorization in a critical extension.
func proof(x challenge) (*tls.Certificate, error) {
	fail := func(err error) (*tls.Certificate, error) {
		return nil, fmt.Errorf("proving %s with a certificate: %w", x.Name, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	digest := sha256.Sum256([]byte(x.KeyAuth))
	value, err := asn1.Marshal(digest[:])
	if err != nil {
		return fail(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ACME challenge"}, DNSNames: []string{x.Name},
		NotBefore: x.Until.Add(-24 * time.Hour), NotAfter: x.Until, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}, Critical: true, Value: value}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return fail(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fail(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// hint is a level trigger on a channel of capacity one.
func hint(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
