package certs

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// Claim is one binding that a server name matches.
type Claim struct {
	Match
	Why string // it comes first, or comes after another
}

// Explain answers every binding that a server name matches, the one that serves it
// first: what Find answers. It is for people; Find is for handshakes.
func (x *Index) Explain(serverName string) []Claim {
	if x == nil {
		return nil
	}
	var all []Claim
	add := func(m Match, why string) {
		if len(all) > 0 {
			why += ", after " + all[0].Pattern
		}
		all = append(all, Claim{m, why})
	}
	name := strings.TrimSuffix(serverName, ".")
	if x.names != nil && len(name) <= maxName {
		key := lower([]byte(name))
		if _, whole := x.names.find(key); whole {
			text := string(key)
			label, suffix, _ := strings.Cut(text, ".")
			if i, ok := x.names.exact[text]; ok {
				add(x.matches[i], "the exact name")
			}
			if i, ok := x.names.suffix[suffix]; ok && suffix != "" && label != "" {
				add(x.matches[i], "a wildcard for one label before "+suffix)
			}
			if at := strings.LastIndexByte(text, '.'); at > 0 {
				if i, ok := x.names.prefix[text[:at]]; ok {
					add(x.matches[i], "a wildcard for one label after "+text[:at])
				}
			}
		}
	}
	if x.star > 0 {
		add(x.matches[x.star-1], "the wildcard for every name")
	}
	if x.def.Slot != nil {
		add(x.def, "the default certificate, for names that nothing else is bound to")
	}
	return all
}

// Contest is one server name that two bindings want.
type Contest struct {
	Name          string
	Winner, Loser Binding
	Why           string // the winner won
}

// Settle answers bindings with each name once, and who lost to whom and why. Where
// documents or sources bind one name twice, the first rule that tells them apart
// decides:
//
//  1. a certificate that is in its time, before one that has ended or has none;
//  2. one that covers the name, before one that does not;
//  3. one that an authority issued, before a self-signed or temporary one;
//  4. the lower Rank: where it comes from;
//  5. the later end of validity;
//  6. the lower ID.
//
// Order of arrival decides nothing: every replica settles alike. A function of its
// arguments.
func Settle(bindings []Binding, now time.Time) ([]Binding, []Contest) {
	var contests []Contest
	at := make(map[string]int, len(bindings)) // place in won
	won := bindings[:0:0]
	for i, b := range bindings {
		name := strings.ToLower(strings.TrimSuffix(b.Name, "."))
		j, taken := at[name]
		if !taken {
			at[name] = i - len(contests)
			if contests != nil {
				won = append(won, b)
			}
			continue
		}
		if contests == nil {
			won = append(won, bindings[:i]...)
		}
		c := contest(name, won[j], b, now)
		won[j] = c.Winner
		contests = append(contests, c)
	}
	if contests == nil {
		return bindings, nil
	}
	return won, contests
}

func contest(name string, a, b Binding, now time.Time) Contest {
	x, y := a.merits(name, now), b.merits(name, now)
	rules := []struct {
		by  int
		why string
	}{
		{cmp.Compare(y.inTime, x.inTime), "only it has a certificate that is in its time"},
		{cmp.Compare(y.covers, x.covers), "only its certificate covers the name"},
		{cmp.Compare(y.issued, x.issued), "only its certificate was issued by an authority"},
		{cmp.Compare(a.Rank, b.Rank), fmt.Sprintf("it comes from a source of rank %d, the other of %d", min(a.Rank, b.Rank), max(a.Rank, b.Rank))},
		{y.end.Compare(x.end), "its certificate ends later"},
		{cmp.Compare(a.ID, b.ID), "its id is the lower one, and nothing else tells them apart"},
	}
	for _, r := range rules {
		switch {
		case r.by < 0:
			return Contest{name, a, b, r.why}
		case r.by > 0:
			return Contest{name, b, a, r.why}
		}
	}
	return Contest{name, a, b, "they are the same"}
}

// merits of a binding for a name; 1 is better than 0.
type merits struct {
	inTime, covers, issued int
	end                    time.Time
}

func (b Binding) merits(name string, now time.Time) merits {
	var m merits
	if b.Slot == nil {
		return m
	}
	one := func(yes bool) int {
		if yes {
			return 1
		}
		return 0
	}
	for _, p := range b.Slot.Active {
		m.inTime = max(m.inTime, one(!now.Before(p.NotBefore) && !now.After(p.NotAfter)))
		m.covers = max(m.covers, one(strings.HasSuffix(name, "*") || covers(p.DNSNames, name)))
		m.issued = max(m.issued, one(!p.standIn))
		if p.NotAfter.After(m.end) {
			m.end = p.NotAfter
		}
	}
	return m
}
