package acme

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/certs"
)

const (
	demandMost  = 10000 // names of an issuer
	demandSync  = 30 * time.Second
	askTime     = 5 * time.Second
	askAgain    = 24 * time.Hour // a name that was asked about is asked about again
	deniedTime  = 5 * time.Minute
	unsureTime  = 10 * time.Second // the asked did not answer
	deniedMost  = 10000
	demandWorks = 4
)

// Rule says which names an issuer makes certificates for on demand.
type Rule struct {
	Issuer string
	OnDemand
	Hosts map[string]bool // the exact hosts of routes, where OnDemand.Routes is set
}

// Demand admits names that no document lists: those that handshakes asked for and
// that a rule allows. A handshake only says the name; all else happens in Run. Safe
// for concurrent use.
type Demand struct {
	state   certs.SharedState
	log     *slog.Logger
	client  *http.Client
	limit   *limiter // of questions
	wanted  chan string
	wake    chan struct{}
	changed chan struct{}

	mu     sync.Mutex // guards all below
	rules  []Rule
	names  map[string][]admitted // by issuer, in order
	denied map[string]time.Time
	open   map[string]bool // being looked at
}

// admitted is a name that a rule allowed.
type admitted struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"` // when it was asked about, zero if no answer was needed
}

// NewDemand makes a Demand without rules.
func NewDemand(state certs.SharedState, log *slog.Logger) *Demand {
	return &Demand{
		state: state, log: log, wanted: make(chan string, 64), wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		limit: &limiter{most: 10, in: time.Second}, names: map[string][]admitted{}, denied: map[string]time.Time{}, open: map[string]bool{},
		client: &http.Client{
			Timeout: askTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{MaxConnsPerHost: demandWorks, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 16 << 10},
		},
	}
}

// Want says that a handshake asked for a name without a certificate. It never waits:
// with too many of them some are forgotten, and their clients come again.
func (d *Demand) Want(name string) {
	select {
	case d.wanted <- name:
	default:
	}
}

// Changed hints that Names may answer something new.
func (d *Demand) Changed() <-chan struct{} { return d.changed }

// Rules makes the rules those of a document.
func (d *Demand) Rules(rules []Rule) {
	d.mu.Lock()
	d.rules = rules
	clear(d.denied) // under other rules
	d.mu.Unlock()
	hint(d.wake)
}

// Names are the names that an issuer's rule allows and that were asked for, in order.
func (d *Demand) Names(issuer string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.rules, func(r Rule) bool { return r.Issuer == issuer })
	if i < 0 {
		return nil
	}
	var list []string
	for _, a := range d.names[issuer] {
		if d.rules[i].allows(a.Name) || d.rules[i].Ask != "" && !a.At.IsZero() {
			list = append(list, a.Name)
		}
	}
	return list
}

// allows says whether a rule allows a name without asking.
func (r *Rule) allows(name string) bool {
	if r.Routes && r.Hosts[name] {
		return true
	}
	return slices.ContainsFunc(r.Allow, func(glob string) bool {
		// Labels are matched one by one: a star is no dot.
		ok, err := path.Match(strings.ReplaceAll(glob, ".", "/"), strings.ReplaceAll(name, ".", "/"))
		return err == nil && ok
	})
}

// publicName says whether an authority could issue for a name at all.
func publicName(name string) bool {
	if len(name) > 253 || !strings.Contains(name, ".") {
		return false
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// Run looks at names that handshakes ask for, until ctx ends.
func (d *Demand) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, demandWorks)
	tick := time.NewTicker(demandSync)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
			d.sync(ctx)
		case <-tick.C:
			d.sync(ctx)
			for _, name := range d.stale() {
				d.Want(name)
			}
		case name := <-d.wanted:
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			if !d.news(name) {
				continue
			}
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			wg.Go(func() {
				d.consider(ctx, name)
				<-places
			})
		}
	}
}

// news says whether a name must be looked at, and takes it in hand.
func (d *Demand) news(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.rules) == 0 || !publicName(name) || d.open[name] || time.Now().Before(d.denied[name]) {
		return false
	}
	for _, list := range d.names {
		if i := find(list, name); i >= 0 && (list[i].At.IsZero() || time.Since(list[i].At) < askAgain) {
			return false
		}
	}
	d.open[name] = true
	return true
}

func find(list []admitted, name string) int {
	return slices.IndexFunc(list, func(a admitted) bool { return a.Name == name })
}

// stale are the names that are to be asked about again.
func (d *Demand) stale() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []string
	for _, names := range d.names {
		for _, a := range names {
			if !a.At.IsZero() && time.Since(a.At) >= askAgain {
				list = append(list, a.Name)
			}
		}
	}
	return list
}

// consider judges a name by the rules and admits it, or remembers that it is denied.
func (d *Demand) consider(ctx context.Context, name string) {
	d.mu.Lock()
	rules := d.rules
	d.mu.Unlock()
	wait := deniedTime
	for i := range rules {
		r := &rules[i]
		a := admitted{Name: name}
		yes := r.allows(name)
		if !yes && r.Ask != "" {
			var err error
			if yes, err = d.ask(ctx, r.Ask, name); err != nil {
				d.log.Warn("a name on demand could not be asked about", slog.String("name", name), slog.Any("error", err))
				wait = unsureTime
				continue
			}
			if a.At = time.Now(); !yes {
				d.change(ctx, r.Issuer, func(list []admitted) []admitted {
					return slices.DeleteFunc(list, func(x admitted) bool { return x.Name == name && !x.At.IsZero() })
				})
			}
		}
		if yes {
			d.admit(ctx, r.Issuer, a)
			wait = unsureTime // admitted, or the state is away
			break
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, name)
	if len(d.denied) >= deniedMost {
		clear(d.denied)
	}
	d.denied[name] = time.Now().Add(wait)
}

func (d *Demand) admit(ctx context.Context, issuer string, a admitted) {
	full := false
	d.change(ctx, issuer, func(list []admitted) []admitted {
		if i := find(list, a.Name); i >= 0 {
			list[i] = a
			return list
		}
		if full = len(list) >= demandMost; full {
			return list
		}
		return append(list, a)
	})
	if full {
		d.log.Error("no more names are admitted on demand: narrow the rule", slog.String("issuer", issuer), slog.Int("most", demandMost), slog.String("name", a.Name))
		return
	}
	d.log.Info("a name is admitted on demand", slog.String("issuer", issuer), slog.String("name", a.Name))
}

// ask asks the rule's URL whether a name may have a certificate: 200 is yes, other
// answers below 500 are no.
func (d *Demand) ask(ctx context.Context, text, name string) (bool, error) {
	if err := d.limit.wait(ctx); err != nil {
		return false, err
	}
	u, err := url.Parse(text)
	if err != nil {
		return false, fmt.Errorf("asking: %w", err)
	}
	q := u.Query()
	q.Set("domain", name)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return false, fmt.Errorf("asking: %w", err)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return false, fmt.Errorf("asking: %w", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode >= http.StatusInternalServerError {
		return false, fmt.Errorf("asking: the answer is %s", resp.Status)
	}
	return resp.StatusCode == http.StatusOK, nil
}

func namesKey(issuer string) string { return "acme/" + stateName(issuer) + "/names" }

// change changes the names of an issuer, with compare and swap.
func (d *Demand) change(ctx context.Context, issuer string, f func([]admitted) []admitted) {
	ctx, cancel := context.WithTimeout(ctx, stateTime)
	defer cancel()
	for range boardTries {
		list, version, err := d.load(ctx, issuer)
		if err == nil {
			list = f(list)
			slices.SortFunc(list, func(a, b admitted) int { return strings.Compare(a.Name, b.Name) })
			var value []byte
			if value, err = json.Marshal(list); err == nil {
				_, err = d.state.Swap(ctx, namesKey(issuer), version, value)
			}
		}
		switch {
		case errors.Is(err, certs.ErrConflict):
			continue
		case err != nil:
			d.log.Warn("the names on demand could not be kept", slog.String("issuer", issuer), slog.Any("error", err))
			return
		}
		d.adopt(issuer, list)
		return
	}
}

func (d *Demand) load(ctx context.Context, issuer string) ([]admitted, string, error) {
	value, version, err := d.state.Load(ctx, namesKey(issuer))
	if errors.Is(err, certs.ErrNoState) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading the names on demand: %w", err)
	}
	var list []admitted
	if err := json.Unmarshal(value, &list); err != nil {
		return nil, version, nil // of another program; it is replaced
	}
	return list, version, nil
}

// sync reads what replicas have admitted.
func (d *Demand) sync(ctx context.Context) {
	d.mu.Lock()
	rules := d.rules
	d.mu.Unlock()
	for _, r := range rules {
		one, cancel := context.WithTimeout(ctx, stateTime)
		list, _, err := d.load(one, r.Issuer)
		cancel()
		if err == nil {
			d.adopt(r.Issuer, list)
		}
	}
}

func (d *Demand) adopt(issuer string, list []admitted) {
	d.mu.Lock()
	same := slices.EqualFunc(d.names[issuer], list, func(a, b admitted) bool { return a.Name == b.Name && a.At.IsZero() == b.At.IsZero() })
	d.names[issuer] = list
	d.mu.Unlock()
	if !same {
		hint(d.changed)
	}
}
