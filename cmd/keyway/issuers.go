package main

import (
	"time"

	"github.com/keyway-edge/keyway/certs/acme"
)

// settleTime is how long a challenge waits until every replica has seen it: an
// authority may come to any of them.
const settleTime = 6 * time.Second

// issuing is what ACME issuers need of the node.
func (n *node) issuing() acme.Deps {
	n.challenges = acme.NewChallenges(n.shared, n.log)
	deps := acme.Deps{
		State: n.shared, Challenges: n.challenges, Lookup: n.vaults.lookup, Events: n.event, Log: n.log, Holder: n.config.NodeID,
	}
	if n.settings.SharedState != "" {
		deps.Settle = settleTime
	}
	return deps
}
