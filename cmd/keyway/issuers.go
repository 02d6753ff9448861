package main

import (
	"time"

	"github.com/keyway-edge/keyway/certs/acme"
	"github.com/keyway-edge/keyway/edge/telemetry"
)

// settleTime is how long a challenge waits until every replica has seen it: an
// authority may come to any of them.
const settleTime = 6 * time.Second

// issuing is what ACME issuers need of the node, the same each time: a command may ask
// for it while issuers run.
func (n *node) issuing() acme.Deps {
	if n.challenges == nil {
		n.challenges, n.orders = acme.NewChallenges(n.shared, n.log), acme.NewStats()
	}
	deps := acme.Deps{
		State: n.shared, Challenges: n.challenges, Lookup: n.vaults.lookup, Events: n.event, Stats: n.orders, Log: n.log, Holder: n.config.NodeID,
	}
	if n.settings.SharedState != "" {
		deps.Settle = settleTime
	}
	return deps
}

// issuers is how the issuers that order certificates do.
func (n *node) issuers() []telemetry.Issuer {
	var all []telemetry.Issuer
	for _, x := range n.orders.All() {
		all = append(all, telemetry.Issuer{Name: x.Name, Issued: x.Issued, Failed: x.Failed, Failing: x.Failing, Next: x.Next})
	}
	return all
}
