package certs_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
)

func TestExplainBeginsWithWhatFindAnswers(t *testing.T) {
	var bindings []certs.Binding
	for _, n := range []string{"x.a.test", "*.a.test", "x.a.*", "*"} {
		bindings = append(bindings, certs.Binding{Name: n, Slot: &certs.Slot{Name: n}})
	}
	x := certs.NewIndex(nil, bindings, &certs.Slot{Name: "default"})
	for name, want := range map[string]string{
		"x.a.test": "x.a.test *.a.test x.a.* * default", "X.A.TEST.": "x.a.test *.a.test x.a.* * default", "y.a.test": "*.a.test * default", "x.a.org": "x.a.* * default",
		"other": "* default", "": "* default", ".a.test": "* default", "*.a.test": "* default", "a..test": "* default",
	} {
		var got []string
		claims := x.Explain(name)
		for _, c := range claims {
			got = append(got, c.Slot.Name)
		}
		if strings.Join(got, " ") != want || claims[0].Match != x.Find(name) {
			t.Errorf("%q: %v, want %s", name, got, want)
		}
	}
	if c := x.Explain("x.a.test"); c[0].Why != "the exact name" || !strings.HasSuffix(c[1].Why, "after x.a.test") {
		t.Errorf("%q %q", c[0].Why, c[1].Why)
	}
	if (*certs.Index)(nil).Explain("x") != nil {
		t.Error("no index explains")
	}
}

func TestOneNameHasOneWinnerWhateverTheOrder(t *testing.T) {
	ca, now := certtest.NewCA(t, "root"), time.Now()
	slot := func(l certtest.Leaf) *certs.Slot {
		s, _ := certs.Advance(nil, certs.Candidate{Name: "slot", Pairs: []certs.Pair{ca.Issue(l)}}, now)
		return s
	}
	names := []string{"a.test"}
	good := certs.Binding{Name: "a.test", ID: "good", Slot: slot(certtest.Leaf{Names: names})}
	twin := good
	twin.ID = "twin"
	first := twin
	first.ID, first.Rank = "ranked first", -1
	for why, loser := range map[string]certs.Binding{
		"in its time":    {Slot: slot(certtest.Leaf{Names: names, NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)}), Rank: -1},
		"only it has":    {Slot: &certs.Slot{}, Rank: -1},
		"covers":         {Slot: slot(certtest.Leaf{Names: []string{"b.test"}, NotAfter: now.Add(9000 * time.Hour)}), Rank: -1},
		"by an auth":     {Slot: slot(certtest.Leaf{Names: names, SelfSigned: true, NotAfter: now.Add(9000 * time.Hour)}), Rank: -1},
		"rank":           {Slot: slot(certtest.Leaf{Names: names, NotAfter: now.Add(9000 * time.Hour)}), Rank: 1},
		"later":          {Slot: slot(certtest.Leaf{Names: names, NotAfter: now.Add(time.Hour)})},
		"id is the lowe": {Slot: good.Slot, ID: "later"},
		"no certificate": {ID: "none"},
	} {
		loser.Name = "A.test."
		if why == "no certificate" {
			why = "only it has"
		}
		other := certs.Binding{Name: "b.test", ID: "other"}
		for _, order := range [][]certs.Binding{{good, other, loser}, {loser, good, other}, {other, loser, good}} {
			won, contests := certs.Settle(order, now)
			if len(won) != 2 || len(contests) != 1 || !slices.ContainsFunc(won, func(b certs.Binding) bool { return b.ID == "good" }) ||
				contests[0].Winner.ID != "good" || !strings.Contains(contests[0].Why, why) {
				t.Errorf("%s: %+v", why, contests)
			}
		}
	}
	for _, order := range [][]certs.Binding{{good, twin, first}, {first, twin, good}, {twin, first, good}} {
		won, contests := certs.Settle(order, now)
		if len(won) != 1 || won[0].ID != "ranked first" || len(contests) != 2 {
			t.Errorf("%d won: %+v", len(won), won)
		}
	}
	alone := []certs.Binding{good, {Name: "*.a.test"}}
	if won, contests := certs.Settle(alone, now); &won[0] != &alone[0] || contests != nil {
		t.Error("without a contest there is something to do")
	}
}
