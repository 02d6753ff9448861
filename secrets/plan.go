package secrets

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Plan is everything a document needs of the broker. It is level-triggered: each
// plan replaces the one before as a whole.
type Plan struct {
	Vaults []Vault
	Refs   []Ref // duplicates are harmless
}

// Vault is one configured source as data. The broker opens it when a reference
// names it, keeps it open while Kind and Config stay equal, and so looks at
// everything anew only when a vault really changed.
type Vault struct {
	Name   string         // what references say: the prefix of a vault entity, or a kind
	Kind   string         // which Opener
	Config map[string]any // settings of the source, and those of Life in seconds
}

// Opener makes a source of one kind from its settings. It starts nothing. Its
// error names the field and what was expected.
type Opener func(config map[string]any) (Source, error)

// Life is how long a vault's values are used and kept. In a vault's settings and
// in the query of a reference each field is a number of seconds.
type Life struct {
	TTL          time.Duration // ttl: look again after this where the lease names no time; 0 means 1 minute
	NegTTL       time.Duration // neg_ttl: look again after "no such secret"; 0 means 5 s
	ResurrectTTL time.Duration // resurrect_ttl: how long past the last good fetch the last good value is used; 0 means 24 h
	MinTTL       time.Duration // min_ttl: a lease's own time is raised to this; 0 means 1 s
	MaxTTL       time.Duration // max_ttl: a lease's own time is cut to this; 0 means no cut
	Overlap      time.Duration // overlap: how long a replaced value is accepted and its lease kept; 0 means 1 minute
}

// withDefaults answers the life with every zero filled in.
func (l Life) withDefaults() Life {
	fill := func(at *time.Duration, d time.Duration) {
		if *at == 0 {
			*at = d
		}
	}
	fill(&l.TTL, time.Minute)
	fill(&l.NegTTL, 5*time.Second)
	fill(&l.ResurrectTTL, 24*time.Hour)
	fill(&l.MinTTL, time.Second)
	fill(&l.Overlap, time.Minute)
	return l
}

// field finds where a setting lives, nil when it is not one of a life's.
func (l *Life) field(name string) *time.Duration {
	switch name {
	case "ttl":
		return &l.TTL
	case "neg_ttl":
		return &l.NegTTL
	case "resurrect_ttl":
		return &l.ResurrectTTL
	case "min_ttl":
		return &l.MinTTL
	case "max_ttl":
		return &l.MaxTTL
	case "overlap":
		return &l.Overlap
	}
	return nil
}

// ParseLife splits a vault's settings into those of its life and the rest, which
// is the source's. The error names the field and what was expected.
func ParseLife(config map[string]any) (Life, map[string]any, error) {
	var l Life
	rest := make(map[string]any, len(config))
	for _, name := range slices.Sorted(maps.Keys(config)) {
		at := l.field(name)
		if at == nil {
			rest[name] = config[name]
			continue
		}
		if config[name] == nil {
			continue
		}
		d, err := seconds(config[name])
		if err != nil {
			return Life{}, nil, fmt.Errorf("config.%s: %w", name, err)
		}
		*at = d
	}
	if l.MaxTTL > 0 && l.MaxTTL < l.MinTTL {
		return Life{}, nil, fmt.Errorf("config.max_ttl: it is below min_ttl; expected at least %v", l.MinTTL.Seconds())
	}
	return l, rest, nil
}

var errSeconds = errors.New("expected a number of seconds from 0 to 1e9")

// seconds reads a number as decoders of YAML, JSON and queries leave it.
func seconds(v any) (time.Duration, error) {
	var f float64
	switch n := v.(type) {
	case int:
		f = float64(n)
	case int64:
		f = float64(n)
	case uint64:
		f = float64(n)
	case float64:
		f = n
	case string:
		var err error
		if f, err = strconv.ParseFloat(n, 64); err != nil {
			return 0, errSeconds
		}
	default:
		return 0, errSeconds
	}
	if !(f >= 0 && f <= 1e9) { // written so that NaN fails too
		return 0, errSeconds
	}
	return time.Duration(f * float64(time.Second)), nil
}

// overrides reads a reference's query: settings of life apply here, the others
// go to the source.
func (r Ref) overrides(life Life) (Life, map[string]string, error) {
	if r.Query == "" {
		return life, nil, nil
	}
	query, err := url.ParseQuery(r.Query)
	if err != nil {
		return life, nil, fmt.Errorf("reference %q: its query cannot be parsed", r.raw)
	}
	options := make(map[string]string)
	for name, values := range query {
		if len(values) != 1 {
			return life, nil, fmt.Errorf("reference %q: option %s is given %d times; expected once", r.raw, name, len(values))
		}
		at := life.field(name)
		if at == nil {
			options[name] = values[0]
			continue
		}
		if *at, err = seconds(values[0]); err != nil {
			return life, nil, fmt.Errorf("reference %q: option %s: %w", r.raw, name, err)
		}
	}
	return life, options, nil
}

// identity tells two configurations of a vault apart. Maps encode with sorted keys.
func (v Vault) identity() string {
	b, err := json.Marshal(v.Config)
	if err != nil {
		b = fmt.Appendf(nil, "%#v", v.Config)
	}
	return v.Kind + "\x00" + string(b)
}
