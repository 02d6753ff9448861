package acme

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/keyway-edge/keyway/certs/issue"
)

// outcome is how an attempt ended.
type outcome struct {
	err     error                    // nil when there is a pair
	refused map[string]time.Duration // authorities that answered: the failure is of these names; how long they asked to wait
	until   time.Time                // of authorities that were not asked or are away: when the first may be
}

// job is one attempt for a set of names, under their lock.
type job struct {
	s    *Source
	rec  *record
	save func(ctx context.Context) error // keeps rec
}

// attempt asks the authorities in order until one issues.
func (j *job) attempt(ctx context.Context) outcome {
	var o outcome
	var errs []error
	for _, a := range j.s.authorities {
		if until := j.rec.Spared[a.cfg.URL]; until.After(time.Now()) {
			o.spare(until)
			continue
		}
		ok, until := a.take(time.Now())
		if !ok {
			o.spare(until)
			continue
		}
		err := j.at(ctx, a)
		a.ended(err, time.Now())
		if err == nil || ctx.Err() != nil || errors.Is(err, errState) {
			o.err = err
			return o
		}
		errs = append(errs, fmt.Errorf("%s: %w", a.name(), err))
		if away(err) {
			o.spare(a.sparedUntil())
			continue
		}
		if o.refused == nil {
			o.refused = map[string]time.Duration{}
		}
		o.refused[a.cfg.URL] = askedToWait(err)
	}
	if o.err = errors.Join(errs...); o.err == nil {
		o.err = errors.New(cmp.Or(j.rec.Why, "the authority does not answer"))
	}
	return o
}

func (o *outcome) spare(until time.Time) {
	if o.until.IsZero() || until.Before(o.until) {
		o.until = until
	}
}

// errState says that what was done could not be kept, so that it must not go on.
var errState = errors.New("the shared state is not available")

// at orders at one authority, with one challenge after the other, and registers
// again when it has forgotten the account.
func (j *job) at(ctx context.Context, a *authority) error {
	for range 2 {
		c, err := a.session(ctx)
		if err != nil {
			return err
		}
		for _, kind := range j.s.cfg.Challenges {
			err = j.order(ctx, a, c, kind)
			var refused *acme.AuthorizationError
			if err == nil || !errors.As(err, &refused) && !errors.Is(err, errNotOffered) {
				break
			}
			j.rec.Order = nil
		}
		if !problemIs(err, "accountDoesNotExist") {
			return err
		}
		j.rec.Order = nil
		a.forget()
	}
	return errors.New("the account is unknown right after it was registered")
}

// order goes on with the order in progress, or begins one, and sees it through.
func (j *job) order(ctx context.Context, a *authority, c *acme.Client, kind string) error {
	o, err := j.resume(ctx, a, c)
	if err != nil {
		return err
	}
	if o == nil {
		if o, err = j.begin(ctx, a, c); err != nil {
			return err
		}
	}
	if o.Status == acme.StatusPending {
		if err := j.prove(ctx, c, o, kind); err != nil {
			return err
		}
	}
	if o, err = c.WaitOrder(ctx, j.rec.Order.URL); err != nil {
		return err
	}
	key, err := parseKey(j.rec.Order.Key)
	if err != nil {
		return err
	}
	chain, err := j.chain(ctx, c, o, key)
	if err != nil {
		return err
	}
	return j.take(a, chain, key)
}

// resume answers the order in progress, nil when there is none that is any good.
func (j *job) resume(ctx context.Context, a *authority, c *acme.Client) (*acme.Order, error) {
	was := j.rec.Order
	if was == nil || was.Directory != a.cfg.URL || time.Since(was.Began) > orderLife {
		j.rec.Order = nil
		return nil, nil
	}
	o, err := c.GetOrder(ctx, was.URL)
	switch {
	case away(err) || ctx.Err() != nil:
		return nil, err
	case err != nil || o.Status == acme.StatusInvalid:
		j.rec.Order = nil
		return nil, nil
	}
	return o, nil
}

// begin makes an order and keeps it before anything is done with it.
func (j *job) begin(ctx context.Context, a *authority, c *acme.Client) (*acme.Order, error) {
	if err := a.limit.wait(ctx); err != nil {
		return nil, err
	}
	_, text, err := issue.NewKey(j.rec.KeyType)
	if err != nil {
		return nil, err
	}
	o, err := c.AuthorizeOrder(ctx, acme.DomainIDs(j.rec.Names...))
	if err != nil {
		return nil, fmt.Errorf("ordering: %w", err)
	}
	if o.URI == "" {
		return nil, errors.New("ordering: the authority's answer names no order")
	}
	j.rec.Order = &order{Directory: a.cfg.URL, URL: o.URI, Key: string(text.Reveal()), Began: time.Now()}
	return o, j.save(ctx)
}

var errNotOffered = errors.New("the authority does not offer the challenge")

// prove answers the challenges of an order's names.
func (j *job) prove(ctx context.Context, c *acme.Client, o *acme.Order, kind string) error {
	var list []challenge
	var accept []*acme.Challenge
	var wait []string
	for _, url := range o.AuthzURLs {
		z, err := c.GetAuthorization(ctx, url)
		if err != nil {
			return fmt.Errorf("proving a name: %w", err)
		}
		if z.Status != acme.StatusPending {
			continue // valid from an earlier order, or the order's own status tells
		}
		i := slices.IndexFunc(z.Challenges, func(x *acme.Challenge) bool { return x.Type == kind })
		if i < 0 {
			return fmt.Errorf("%w %s for %s", errNotOffered, kind, z.Identifier.Value)
		}
		keyAuth, err := c.HTTP01ChallengeResponse(z.Challenges[i].Token)
		if err != nil {
			return fmt.Errorf("proving %s: %w", z.Identifier.Value, err)
		}
		list = append(list, challenge{Kind: kind, Name: z.Identifier.Value, Token: z.Challenges[i].Token, KeyAuth: keyAuth, Until: time.Now().Add(challengeLife)})
		if z.Challenges[i].Status == acme.StatusPending { // else accepted before this node was killed
			accept = append(accept, z.Challenges[i])
		}
		wait = append(wait, url)
	}
	if len(list) == 0 {
		return nil
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stateTime)
		defer cancel()
		j.s.deps.Challenges.remove(last, list)
	}()
	if err := j.s.deps.Challenges.put(ctx, list); err != nil {
		return fmt.Errorf("%w: %w", errState, err)
	}
	// The authority may come to any replica.
	if err := pause(ctx, j.s.deps.Settle); err != nil {
		return err
	}
	for _, x := range accept {
		if _, err := c.Accept(ctx, x); err != nil {
			return fmt.Errorf("accepting a challenge: %w", err)
		}
	}
	for _, url := range wait {
		if _, err := c.WaitAuthorization(ctx, url); err != nil {
			return err
		}
	}
	return nil
}

// chain has the certificate signed, or fetches one that was signed already.
func (j *job) chain(ctx context.Context, c *acme.Client, o *acme.Order, key crypto.Signer) ([][]byte, error) {
	if o.Status == acme.StatusReady {
		csr, err := issue.CSR(key, j.rec.Names)
		if err != nil {
			return nil, err
		}
		der, certURL, err := c.CreateOrderCert(ctx, o.FinalizeURL, csr, true)
		if err == nil {
			return j.preferred(ctx, c, der, certURL), nil
		}
		// The order may be valid all the same: the answer got lost, or did not say
		// where to wait.
		again, lost := c.WaitOrder(ctx, j.rec.Order.URL)
		if lost != nil || again.Status != acme.StatusValid {
			return nil, fmt.Errorf("having the certificate signed: %w", err)
		}
		o = again
	}
	der, err := c.FetchCert(ctx, o.CertURL, true)
	if err != nil {
		return nil, fmt.Errorf("fetching the certificate: %w", err)
	}
	return j.preferred(ctx, c, der, o.CertURL), nil
}

// preferred answers the chain that leads to the preferred root, if there is one.
func (j *job) preferred(ctx context.Context, c *acme.Client, der [][]byte, certURL string) [][]byte {
	want := j.s.cfg.PreferredChain
	if want == "" || certURL == "" || leadsTo(der, want) {
		return der
	}
	others, err := c.ListCertAlternates(ctx, certURL)
	if err != nil {
		return der
	}
	for _, url := range others {
		if other, err := c.FetchCert(ctx, url, true); err == nil && leadsTo(other, want) {
			return other
		}
	}
	return der
}

// leadsTo says whether the last certificate of a chain is of, or was signed by, an
// authority of a common name.
func leadsTo(der [][]byte, name string) bool {
	last, err := x509.ParseCertificate(der[len(der)-1])
	return err == nil && (last.Issuer.CommonName == name || last.Subject.CommonName == name)
}

// take puts what was issued in the place of what was before.
func (j *job) take(a *authority, der [][]byte, key crypto.Signer) error {
	leaf, err := x509.ParseCertificate(der[0])
	if err != nil {
		return fmt.Errorf("the authority's certificate cannot be read: %w", err)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return errors.New("the authority's certificate is for another key")
	}
	for _, name := range j.rec.Names {
		if err := leaf.VerifyHostname(name); err != nil {
			return fmt.Errorf("the authority's certificate is for other names: %w", err)
		}
	}
	r := j.rec
	r.Directory, r.OrderURL, r.Cert, r.Key = a.cfg.URL, r.Order.URL, string(issue.Chain(der...)), r.Order.Key
	r.Serial, r.CertID, r.Issued, r.NotBefore, r.NotAfter = leaf.SerialNumber.Text(16), certID(leaf), time.Now(), leaf.NotBefore, leaf.NotAfter
	r.Order, r.Window, r.AskARI = nil, nil, time.Time{}
	r.RenewAt = renewal(r.NotBefore, r.NotAfter, j.s.cfg.RenewBefore, nil, j.s.random())
	r.Failures, r.Refused, r.Since, r.Why, r.Next, r.Setups = 0, 0, time.Time{}, "", time.Time{}, nil
	r.Spared = nil
	return nil
}
