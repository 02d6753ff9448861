package main

import (
	"slices"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/ocsp"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/telemetry"
)

// certFacts is what commands show of one certificate; no key is in it.
type certFacts struct {
	ID       string        `json:"id"`
	Name     string        `json:"name"`
	State    string        `json:"state"`
	Version  int           `json:"version"`
	Source   string        `json:"source"`
	Names    []string      `json:"names"` // SNIs bound to it
	Since    time.Time     `json:"since,omitzero"`
	Bundles  []bundleFacts `json:"bundles"`
	Warnings []string      `json:"warnings,omitempty"`
	Refused  string        `json:"refused,omitempty"`
	Reason   string        `json:"reason,omitempty"` // why there never was a version
	Owner    *ownerFacts   `json:"cert_manager,omitempty"`
	History  []certVersion `json:"history,omitempty"`
}

// certVersion is one version of a certificate.
type certVersion struct {
	Version     int       `json:"version,omitempty"` // 0 for one that never served
	State       string    `json:"state"`
	Fingerprint string    `json:"sha256,omitempty"`
	Serial      string    `json:"serial,omitempty"`
	Source      string    `json:"source"`
	Since       time.Time `json:"since"`
	Until       time.Time `json:"until,omitzero"`
	Reason      string    `json:"reason,omitempty"`
	Kept        bool      `json:"kept,omitempty"` // a rollback can bring it back
}

type bundleFacts struct {
	KeyType     string    `json:"key_type"`
	Serial      string    `json:"serial"`
	Issuer      string    `json:"issuer"`
	Names       []string  `json:"names"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Fingerprint string    `json:"sha256"`
}

// certificateFacts lists every certificate of a snapshot.
func certificateFacts(s *edge.Snapshot, now time.Time) []certFacts {
	list := []certFacts{}
	if s == nil {
		return list
	}
	bound := map[string][]string{}
	for _, n := range s.Document.SNIs {
		bound[n.Certificate] = append(bound[n.Certificate], n.Name)
	}
	s.Slots(func(id string, slot *certs.Slot) bool {
		f := certFacts{ID: id, Name: slot.Name, State: "active", Version: slot.Version, Source: slot.Source, Names: slices.Sorted(slices.Values(bound[id])), Since: slot.Since, Warnings: slot.Warnings}
		for _, b := range slot.Active {
			f.Bundles = append(f.Bundles, bundleFacts{b.KeyType, b.Serial, b.Issuer, b.DNSNames, b.NotBefore, b.NotAfter, b.Fingerprint})
			if now.After(b.NotAfter) {
				f.State = "expired"
			}
		}
		if len(slot.Active) == 0 {
			f.State = "missing"
		}
		if slot.Refused != nil {
			f.Refused = slot.Refused.Error()
		}
		for _, v := range slot.History(now) {
			f.History = append(f.History, certVersion{v.Number, string(v.State), v.Fingerprint, v.Serial, v.Source, v.Since, v.Until, v.Reason, v.Kept})
		}
		list = append(list, f)
		return true
	})
	pairs := s.Document.Pairs()
	for c, why := range s.Unserved {
		f := certFacts{ID: c.ID, Name: c.ID, State: "missing", Names: slices.Sorted(slices.Values(bound[c.ID])), Source: "document", Reason: why}
		if len(f.Names) > 0 {
			f.Name = f.Names[0]
		}
		if cert, _ := pairs(c); !cert.Ref.IsZero() {
			f.Source = cert.Ref.Vault
		}
		list = append(list, f)
	}
	return list
}

// secretFacts is what commands show of one credential; its value is not in it.
type secretFacts struct {
	Reference string    `json:"reference"`
	State     string    `json:"state"`
	Version   int       `json:"version"`
	Source    string    `json:"source"`
	Fetched   time.Time `json:"fetched"`
	NextLook  time.Time `json:"next_look"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	Reason    string    `json:"reason,omitempty"`

	Pinned    int            `json:"pinned,omitempty"`
	Origin    string         `json:"origin,omitempty"` // the source's id of the read
	TTL       float64        `json:"ttl_seconds,omitempty"`
	Renewable bool           `json:"renewable,omitempty"`
	History   []versionFacts `json:"history,omitempty"`
}

// staples is what responders said of certificates, nothing when they are not asked.
func (n *node) staples() []ocsp.Status {
	if n.stapler == nil {
		return nil
	}
	return n.stapler.All()
}

// keyRings is how the keys of sessions and of Encrypted Client Hello stand.
func (n *node) keyRings() []telemetry.KeyRing {
	list := []telemetry.KeyRing{{Use: "tickets", RingStatus: n.tickets.Status()}}
	if n.ech != nil {
		list = append(list, telemetry.KeyRing{Use: "ech", RingStatus: n.ech.Status()})
	}
	return list
}
