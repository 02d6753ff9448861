package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/keyway-edge/keyway/certs/acme"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/routing/spec"
)

// demanded is the documents with a certificate for each name that was admitted on
// demand. Such a certificate is one of the document like others: it is fetched,
// checked, swapped and listed.
type demanded struct {
	edge.Documents
	demand  *acme.Demand
	changed chan struct{}

	mu        sync.Mutex // guards those below
	doc, last *spec.Document
	names     []string // that last was made with, with their issuers
}

func newDemanded(inner edge.Documents, demand *acme.Demand) *demanded {
	return &demanded{Documents: inner, demand: demand, changed: make(chan struct{}, 1)}
}

// Changed hints about documents and names.
func (d *demanded) Changed() <-chan struct{} { return d.changed }

// Run forwards hints until ctx ends.
func (d *demanded) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.Documents.Changed():
		case <-d.demand.Changed():
		}
		select {
		case d.changed <- struct{}{}:
		default:
		}
	}
}

// Current is the latest document with the certificates on demand; the same one for
// as long as neither changes.
func (d *demanded) Current() (*spec.Document, spec.Problems) {
	doc, problems := d.Documents.Current()
	if doc == nil {
		return nil, problems
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fresh := doc != d.doc
	if fresh {
		d.doc = doc
		d.demand.Rules(demandRules(doc))
	}
	var names []string
	for _, x := range doc.Issuers {
		for _, n := range d.demand.Names(x.Name) {
			names = append(names, x.ID+" "+n)
		}
	}
	if fresh || !slices.Equal(names, d.names) {
		d.names, d.last = names, withNames(doc, names)
	}
	return d.last, problems
}

// demandRules are the rules of a document's issuers.
func demandRules(doc *spec.Document) []acme.Rule {
	var rules []acme.Rule
	for _, x := range doc.Issuers {
		if x.Type != "acme" {
			continue
		}
		c, err := acme.Parse(issuerConfig(doc, x))
		if err != nil || !c.OnDemand.Enabled() {
			continue
		}
		r := acme.Rule{Issuer: x.Name, OnDemand: c.OnDemand, Hosts: map[string]bool{}}
		for _, route := range doc.Routes {
			for _, host := range route.Hosts {
				if host, _, _ = strings.Cut(strings.ToLower(host), ":"); !strings.Contains(host, "*") {
					r.Hosts[host] = true
				}
			}
		}
		rules = append(rules, r)
	}
	return rules
}

// withNames answers the document with a certificate for each name that it does not bind.
func withNames(doc *spec.Document, names []string) *spec.Document {
	if len(names) == 0 {
		return doc
	}
	bound := make(map[string]bool, len(doc.SNIs))
	for _, s := range doc.SNIs {
		bound[s.Name] = true
	}
	next := *doc
	next.Certificates, next.SNIs = slices.Clone(doc.Certificates), slices.Clone(doc.SNIs)
	for _, x := range names {
		issuer, name, _ := strings.Cut(x, " ")
		if bound[name] {
			continue
		}
		bound[name] = true
		tags := []string{spec.OnDemand}
		cert := &spec.Certificate{Meta: spec.Meta{ID: derivedID("certificate " + x), Tags: tags}, Issuer: issuer, KeyType: "ecdsa-p256"}
		next.Certificates = append(next.Certificates, cert)
		next.SNIs = append(next.SNIs, &spec.SNI{Meta: spec.Meta{ID: derivedID("sni " + x), Tags: tags}, Name: name, Certificate: cert.ID})
	}
	return &next
}

// derivedID is a UUID (version 8) that is the same for the same text.
func derivedID(text string) string {
	b := sha256.Sum256([]byte("keyway on demand " + text))
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
