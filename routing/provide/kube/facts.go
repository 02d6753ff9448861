package kube

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
	"github.com/keyway-edge/keyway/secrets/kube/cluster"
)

// counts are what a Provider counts. The zero value is ready.
type counts struct {
	documents     atomic.Uint64 // made
	translating   atomic.Int64  // nanoseconds
	written       atomic.Uint64
	writeFailures atomic.Uint64
	leads         atomic.Bool
}

// Facts are what metrics tell of a Provider.
type Facts struct {
	Sources       []cluster.Facts
	Documents     uint64        // made of what changed
	Translating   time.Duration // in all
	Refused       map[Refused]int
	Written       uint64 // statuses and events
	WriteFailures uint64
	Leads         bool // this replica writes
}

// Refused is what values of objects have in common that were refused.
type Refused struct {
	Kind   string
	Effect translate.Effect
}

// Facts answers them.
func (p *Provider) Facts() Facts {
	f := Facts{
		Documents: p.counts.documents.Load(), Translating: time.Duration(p.counts.translating.Load()),
		Written: p.counts.written.Load(), WriteFailures: p.counts.writeFailures.Load(), Leads: p.counts.leads.Load(), Refused: map[Refused]int{},
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.running() {
		f.Sources = append(f.Sources, s.Facts())
	}
	for kind, past := range p.past { // what is counted never becomes less, and stays when no namespace is left
		i := slices.IndexFunc(f.Sources, func(s cluster.Facts) bool { return s.Kind == kind })
		if i < 0 {
			i, f.Sources = len(f.Sources), append(f.Sources, cluster.Facts{Kind: kind})
		}
		f.Sources[i].Lists, f.Sources[i].Watches = f.Sources[i].Lists.Plus(past.Lists), f.Sources[i].Watches.Plus(past.Watches)
	}
	for _, x := range p.findings {
		f.Refused[Refused{translate.Shown(x.Object.Kind), x.Effect}]++
	}
	return f
}
