package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// apiKey is what the policy's consumer shows.
const apiKey = "bench-key"

// inForce sees that the plugins do their work before their cost is measured: a request
// without the key is refused, one with it is counted.
func inForce(ctx context.Context, c benchCase) error {
	for _, p := range c.peers {
		if p.log == "" {
			continue // bare
		}
		if err := p.refuses(ctx); err != nil {
			return fmt.Errorf("%s: the policy is not in force: %w", p.name, err)
		}
		if err := logged(ctx, p, 2); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func (p *peer) refuses(ctx context.Context) error {
	without, err := p.get(ctx, "")
	if err != nil {
		return err
	}
	if without.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("without a key the answer is %d, not 401", without.StatusCode)
	}
	with, err := p.get(ctx, apiKey)
	if err != nil {
		return err
	}
	if with.StatusCode != http.StatusOK {
		return fmt.Errorf("with the key the answer is %d, not 200", with.StatusCode)
	}
	if with.Header.Get("X-Ratelimit-Remaining-Hour") == "" {
		return fmt.Errorf("the answer says nothing of the limit: %v", with.Header)
	}
	return nil
}

// get asks a peer for the small file.
func (p *peer) get(ctx context.Context, key string) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/1k", p.tls()), nil)
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	q.Host = "bench.example.com"
	if key != "" {
		q.Header.Set("apikey", key)
	}
	t := &http.Transport{TLSClientConfig: clientConfig(false), DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: t, Timeout: 10 * time.Second}).Do(q)
	if err != nil {
		return nil, fmt.Errorf("asking: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading an answer: %w", err)
	}
	return resp, nil
}

// logged waits until the peer's access log has a line for each request, which takes a
// second at most, and empties the file. A peer without one has nothing to wait for.
func logged(ctx context.Context, p *peer, requests int) error {
	if p.log == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		text, err := os.ReadFile(p.log)
		if err != nil {
			return fmt.Errorf("reading the access log: %w", err)
		}
		lines := bytes.Count(text, []byte("\n"))
		if lines < requests && ctx.Err() == nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if lines != requests {
			return fmt.Errorf("the access log has %d lines of %d requests", lines, requests)
		}
		if bytes.Count(text, []byte(`"path":"/1k"`)) != requests {
			first, _, _ := bytes.Cut(text, []byte("\n"))
			return fmt.Errorf("the access log has other lines than those of the requests: %s", first)
		}
		return os.Truncate(p.log, 0)
	}
}
