package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keyway-edge/keyway/secrets"
)

// session answers the login of this moment, a new one when there is none or its
// time is over.
func (c *Client) session(ctx context.Context) (*session, error) {
	if s := c.current(); s != nil {
		return s, nil
	}
	c.login.Lock()
	defer c.login.Unlock()
	if s := c.current(); s != nil {
		return s, nil // another one logged in meanwhile
	}
	s, err := c.enter(ctx)
	if err != nil {
		// Whatever the reason, nothing of this source can be read: it is away as a whole.
		if !errors.Is(err, secrets.ErrUnavailable) {
			err = fmt.Errorf("%w: %w", secrets.ErrUnavailable, err)
		}
		c.tell("login_failed", err.Error())
		return nil, fmt.Errorf("logging in to %s with %s: %w", c.cfg.Address, c.cfg.Auth.Method, err)
	}
	c.mu.Lock()
	c.now = s
	c.mu.Unlock()
	c.tell("login", "")
	return s, nil
}

func (c *Client) current() *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.now; s != nil && (s.ttl == 0 || time.Since(s.made) < s.ttl) {
		return s
	}
	return nil
}

// forget drops a login, unless another one has replaced it.
func (c *Client) forget(s *session) {
	c.mu.Lock()
	if c.now == s {
		c.now = nil
	}
	c.mu.Unlock()
}

// tell makes an event of the login, never with its secrets.
func (c *Client) tell(result, reason string) {
	kind := "source"
	if result == wrappingUsed {
		kind = "security"
	}
	c.deps.Events(secrets.Event{Kind: kind, Subject: c.cfg.Address, Source: "vault/" + c.cfg.Auth.Method, Result: result, Reason: reason, Actor: "node"})
}

const wrappingUsed = "wrapping_token_used"

// alive says whether a token is still good, when a read was refused: it may lack
// the permission, or it may be dead.
func (c *Client) alive(ctx context.Context, s *session) bool {
	_, err := c.finish("auth/token/lookup-self", func(a *api.Client) (*api.Response, error) {
		return a.Logical().ReadRawWithContext(ctx, "auth/token/lookup-self")
	}, s.api)
	return !errors.Is(err, secrets.ErrDenied)
}

// enter logs in.
func (c *Client) enter(ctx context.Context) (*session, error) {
	if err := c.trust(ctx); err != nil {
		return nil, err
	}
	if c.cfg.Auth.Method == "token" {
		return c.enterToken(ctx)
	}
	path, data, err := c.proof(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.refusal.again(path, data, time.Now()); err != nil {
		return nil, err
	}
	secret, err := c.post(ctx, path, data)
	c.refusal.note(err, time.Now())
	if err != nil {
		return nil, err
	}
	if secret.Auth == nil || secret.Auth.ClientToken == "" {
		return nil, fmt.Errorf("%s answered without a token", path)
	}
	a, err := c.bare(secret.Auth.ClientToken)
	if err != nil {
		return nil, err
	}
	return &session{api: a, accessor: secret.Auth.Accessor, renewable: secret.Auth.Renewable, made: time.Now(), ttl: time.Duration(secret.Auth.LeaseDuration) * time.Second}, nil
}

// enterToken takes a token that somebody else made, and asks how long it lives.
func (c *Client) enterToken(ctx context.Context) (*session, error) {
	token, err := c.text(ctx, c.cfg.Auth.Token, c.cfg.Auth.TokenFile)
	if err != nil {
		return nil, err
	}
	a, err := c.bare(string(token.Reveal()))
	if err != nil {
		return nil, err
	}
	made := time.Now()
	const path = "auth/token/lookup-self"
	secret, err := c.finish(path, func(a *api.Client) (*api.Response, error) { return a.Logical().ReadRawWithContext(ctx, path) }, a)
	if err != nil {
		return nil, err
	}
	ttl, _ := secret.TokenTTL()
	renewable, _ := secret.TokenIsRenewable()
	accessor, _ := secret.TokenAccessor()
	return &session{api: a, accessor: accessor, renewable: renewable, made: made, ttl: ttl}, nil
}

// proof is what a login sends, and where to.
func (c *Client) proof(ctx context.Context) (path string, data map[string]any, err error) {
	a := &c.cfg.Auth
	switch a.Method {
	case "approle":
		role, err := c.text(ctx, a.RoleID, "")
		if err != nil {
			return "", nil, err
		}
		id, err := c.secretID(ctx)
		if err != nil {
			return "", nil, err
		}
		return "auth/" + a.AppRolePath + "/login", map[string]any{"role_id": string(role.Reveal()), "secret_id": string(id.Reveal())}, nil
	case "kubernetes":
		jwt, err := c.text(ctx, Text{}, a.KubeTokenFile)
		return "auth/" + a.KubePath + "/login", map[string]any{"role": a.KubeRole, "jwt": string(jwt.Reveal())}, err
	case "cert":
		data := map[string]any{}
		if a.CertRole != "" {
			data["name"] = a.CertRole
		}
		return "auth/" + a.CertPath + "/login", data, nil
	case "jwt":
		jwt, err := c.text(ctx, a.JWT, a.JWTFile)
		return "auth/" + a.JWTPath + "/login", map[string]any{"role": a.JWTRole, "jwt": string(jwt.Reveal())}, err
	}
	return "", nil, fmt.Errorf("there is no way to log in by %q", a.Method)
}

// secretID answers the secret-id, unwrapped once when it came wrapped. A wrapping
// token that somebody else has used is what wrapping is there to show.
func (c *Client) secretID(ctx context.Context) (secrets.Value, error) {
	v, err := c.text(ctx, c.cfg.Auth.SecretID, c.cfg.Auth.SecretIDFile)
	if err != nil || !c.cfg.Auth.Wrapped {
		return v, err
	}
	c.mu.Lock()
	known, inner := c.once == v.Fingerprint(), c.inner
	c.mu.Unlock()
	if known {
		return inner, nil
	}
	a, err := c.bare(string(v.Reveal()))
	if err != nil {
		return secrets.Value{}, err
	}
	const path = "sys/wrapping/unwrap"
	secret, err := c.finish(path, func(a *api.Client) (*api.Response, error) {
		return a.Logical().WriteRawWithContext(ctx, path, []byte("{}"))
	}, a)
	if err != nil {
		var answer *api.ResponseError
		if !errors.Is(err, secrets.ErrUnavailable) || errors.As(err, &answer) && answer.StatusCode < http.StatusInternalServerError {
			c.tell(wrappingUsed, "the wrapping token of the secret-id was used or has ended: somebody else may have read the secret-id; make a new one and look for who did")
		}
		return secrets.Value{}, fmt.Errorf("unwrapping the secret-id: %w", err)
	}
	id, _ := secret.Data["secret_id"].(string)
	if id == "" {
		return secrets.Value{}, errors.New("unwrapping the secret-id: the wrapped answer has no secret_id")
	}
	inner = secrets.NewValue([]byte(id))
	c.mu.Lock()
	c.once, c.inner = v.Fingerprint(), inner
	c.mu.Unlock()
	return inner, nil
}

// post sends data without a login.
func (c *Client) post(ctx context.Context, path string, data map[string]any) (*api.Secret, error) {
	body, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("writing to %s: %w", path, err)
	}
	a, err := c.bare("")
	if err != nil {
		return nil, err
	}
	return c.finish(path, func(a *api.Client) (*api.Response, error) { return a.Logical().WriteRawWithContext(ctx, path, body) }, a)
}

// Run keeps the login alive until ctx ends: it is renewed at two thirds of its time,
// and made anew when it cannot be. Who reads meanwhile uses the old one.
func (c *Client) Run(ctx context.Context) error {
	failures := 0
	var last error
	for {
		wait, due := c.nextRenewal(failures, last)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if !due {
			continue
		}
		if last = c.keep(ctx); last != nil && ctx.Err() == nil {
			failures++
			continue
		}
		failures = 0
	}
}

const idle = 5 * time.Second // how long a source that nothing was read from waits to be looked at again

// nextRenewal is pure arithmetic but for the chance in it. last is why the last try
// failed.
func (c *Client) nextRenewal(failures int, last error) (wait time.Duration, due bool) {
	c.mu.Lock()
	s := c.now
	c.mu.Unlock()
	switch {
	case s == nil || s.ttl == 0:
		return idle, false
	case failures > 0:
		// A second at the least: the broker's own probes come beside it.
		step := min(2*time.Second<<min(failures-1, 6), time.Minute)
		wait = step/2 + rand.N(step/2)
		if t, ok := errors.AsType[*secrets.Throttled](last); ok {
			wait = max(wait, t.After+rand.N(t.After/10+1))
		}
		return wait, true
	}
	at := s.made.Add(time.Duration(float64(s.ttl) * (2.0/3 - 0.05 + 0.1*rand.Float64())))
	if wait = time.Until(at); wait > idle {
		return idle, false // another login may have come meanwhile
	}
	return max(wait, 0), true
}

// keep renews the login, or logs in anew.
func (c *Client) keep(ctx context.Context) error {
	c.mu.Lock()
	s := c.now
	c.mu.Unlock()
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*c.cfg.Timeout)
	defer cancel()
	if s.renewable {
		const path = "auth/token/renew-self"
		secret, err := c.finish(path, func(a *api.Client) (*api.Response, error) {
			return a.Logical().WriteRawWithContext(ctx, path, []byte("{}"))
		}, s.api)
		if errors.Is(err, secrets.ErrUnavailable) {
			return err
		}
		if err == nil && secret.Auth != nil && time.Duration(secret.Auth.LeaseDuration)*time.Second > s.ttl/2 {
			next := *s
			next.made, next.ttl, next.renewable = time.Now(), time.Duration(secret.Auth.LeaseDuration)*time.Second, secret.Auth.Renewable
			c.mu.Lock()
			if c.now == s {
				c.now = &next
			}
			c.mu.Unlock()
			return nil
		}
		// It is near the end of what it may be extended to.
	}
	c.login.Lock()
	defer c.login.Unlock()
	next, err := c.enter(ctx)
	if err != nil {
		c.tell("login_failed", strings.TrimSpace(err.Error()))
		return err
	}
	c.mu.Lock()
	if c.now == s {
		c.now = next
	}
	c.mu.Unlock()
	c.tell("login", "")
	return nil
}
