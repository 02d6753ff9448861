package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certmanager"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/edge/telemetry"
	"github.com/keyway-edge/keyway/routing/provide/kube"
	"github.com/keyway-edge/keyway/secrets"
)

// owners joins what cert-manager says of its Certificates with the certificates that are
// in use: what nobody uses is nobody's trouble here.
type owners struct {
	certs   *certmanager.Watcher
	objects *kube.Provider // that writes Events
	current func() *edge.Snapshot
	event   func(secrets.Event)
	log     *slog.Logger

	told map[string]string // state by id of a certificate; owned by Run
}

// stateTemporary is the state of a certificate for which a stand-in serves.
const stateTemporary = "temporary"

// owned is a certificate in use and the Certificate that its Secret is of.
type owned struct {
	id, name string
	of       *certmanager.Certificate
	facts    ownerFacts
	bad      bool
}

// ownerFacts is what commands show of the Certificate that a certificate comes from.
type ownerFacts struct {
	Certificate string    `json:"certificate"` // namespace/name
	Issuer      string    `json:"issuer"`
	State       string    `json:"state"`
	Reason      string    `json:"reason,omitempty"`
	Ready       bool      `json:"ready"`
	Temporary   bool      `json:"temporary"` // a stand-in serves
	NotAfter    time.Time `json:"not_after,omitzero"`
	Renewal     time.Time `json:"renewal_time,omitzero"`
	Attempts    int       `json:"failed_issuance_attempts,omitempty"`
	LastFailure time.Time `json:"last_failure,omitzero"`
}

// state is "-" for a certificate that is not cert-manager's.
func (f *ownerFacts) state() string {
	if f == nil {
		return "-"
	}
	return f.State
}

func (f *ownerFacts) reason() string {
	if f == nil {
		return ""
	}
	return f.Reason
}

// wrong says that somebody has to look.
func (f *ownerFacts) wrong() bool { return f != nil && wrongIssuance(f.State) }

// wrongIssuance says that an issuance is not as it should be.
func wrongIssuance(state string) bool {
	return certmanager.State(state).Bad() || state == stateTemporary
}

// told is what is wrong with the issuance, "" for nothing.
func (f *ownerFacts) told() string {
	if !f.wrong() {
		return ""
	}
	return "cert-manager: " + f.State + ": " + f.Reason
}

// show adds lines of a table.
func (f *ownerFacts) show(add func(...string)) {
	if f == nil {
		return
	}
	add("cert-manager", "Certificate "+f.Certificate+" of "+f.Issuer)
	add("issuance", strings.TrimSuffix(f.State+": "+f.Reason, ": "))
	if !f.NotAfter.IsZero() {
		add("issued until", f.NotAfter.Format(time.RFC3339))
	}
	if !f.Renewal.IsZero() {
		add("renewal", f.Renewal.Format(time.RFC3339))
	}
	if f.Attempts > 0 {
		add("failed attempts", fmt.Sprintf("%d, last at %s", f.Attempts, f.LastFailure.Format(time.RFC3339)))
	}
}

// openCertManager makes what watches cert-manager, if there is a cluster.
func (n *node) openCertManager() error {
	s := n.settings
	if n.cluster == nil || !s.Kube.CertManager {
		return nil
	}
	w, err := certmanager.New(certmanager.Config{Connection: s.kubeConnection(), Namespaces: s.Kube.Namespaces, Log: n.log})
	if err != nil {
		return fmt.Errorf("setting kube_cert_manager: %w", err)
	}
	n.owners = &owners{
		certs: w, objects: n.cluster.objects, event: n.event, log: n.log, told: map[string]string{},
		current: func() *edge.Snapshot { return n.publisher.Current() },
	}
	return nil
}

// tasks are what runs for it, nothing for nil.
func (o *owners) tasks() []task {
	if o == nil {
		return nil
	}
	return []task{{"Certificates of cert-manager", o.certs.Run}, {"certificates that cert-manager issues", o.Run}}
}

// remarks says what cannot be read.
func (o *owners) remarks() []string {
	if o == nil {
		return nil
	}
	return o.certs.Remarks()
}

// inUse lists the certificates of the snapshot in force that cert-manager issues.
func (o *owners) inUse(now time.Time) []owned {
	if o == nil {
		return nil
	}
	s := o.current()
	if s == nil {
		return nil
	}
	var list []owned
	pairs := s.Document.Pairs()
	for _, c := range s.Document.Certificates {
		cert, _ := pairs(c)
		of, ok := o.of(cert.Ref)
		if !ok {
			continue
		}
		x := owned{id: c.ID, name: c.ID, of: of}
		slot := s.Slot(c.ID)
		if slot != nil {
			x.name = slot.Name
		}
		x.judge(slot, now)
		list = append(list, x)
	}
	return list
}

// of answers the Certificate that the Secret of a reference belongs to.
func (o *owners) of(ref secrets.Ref) (*certmanager.Certificate, bool) {
	if ref.Vault != kubeVault {
		return nil, false
	}
	namespace, name, _ := strings.Cut(ref.Resource, "/")
	return o.certs.Owner(namespace, name)
}

// judge says how a certificate stands. What serves may be older than what was issued, or
// a stand-in: of that only the pair itself can tell.
func (x *owned) judge(slot *certs.Slot, now time.Time) {
	c := x.of
	state, why := c.State(now)
	f := ownerFacts{
		Certificate: c.Namespace + "/" + c.Name, Issuer: c.Issuer, State: string(state), Reason: why, Ready: c.Ready.True,
		NotAfter: c.NotAfter, Renewal: c.Renewal, Attempts: c.Attempts, LastFailure: c.LastFailure,
	}
	if slot != nil {
		for _, b := range slot.Active {
			f.Temporary = f.Temporary || b.Temporary
		}
	}
	x.bad = state.Bad()
	if f.Temporary && !x.bad {
		f.State, f.Reason = stateTemporary, strings.TrimSuffix("a stand-in serves until "+c.Issuer+" has answered; "+why, "; ")
	}
	x.facts = f
}

const (
	ownersLook  = time.Second      // how soon a change is seen
	ownersClock = 30 * time.Second // how soon it is seen that time has passed
)

// Run tells of changes until ctx ends: of Certificates, of what is in use, and those that
// time brings.
func (o *owners) Run(ctx context.Context) error {
	tick := time.NewTicker(ownersLook)
	defer tick.Stop()
	var seen *edge.Snapshot
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		changed := false
		select {
		case <-o.certs.Changed():
			changed = true
		default:
		}
		if now, s := time.Now(), o.current(); changed || s != seen || now.Sub(last) >= ownersClock {
			seen, last = s, now
			o.look(now)
		}
	}
}

// look tells what differs from what was told before.
func (o *owners) look(now time.Time) {
	next := map[string]string{}
	var notices []kube.Notice
	noticed := map[string]bool{} // Certificates: many names may be of one
	for _, x := range o.inUse(now) {
		f := &x.facts
		if next[x.id] = f.State; o.told[x.id] != f.State {
			o.tell(&x, o.told[x.id])
		}
		if x.bad && !noticed[f.Certificate] {
			noticed[f.Certificate] = true
			notices = append(notices, kube.Notice{
				APIVersion: "cert-manager.io/v1", Kind: "Certificate", Namespace: x.of.Namespace, Name: x.of.Name, UID: x.of.UID,
				Reason: ownerReason(f.State), Message: "it is in use: " + f.Reason,
			})
		}
	}
	o.told = next
	o.objects.Notify(notices)
}

// ownerReason is what Events of bad states are called.
func ownerReason(state string) string {
	switch certmanager.State(state) {
	case certmanager.Overdue:
		return "RenewalOverdue"
	case certmanager.Expired:
		return "CertificateExpired"
	}
	return "IssuanceFailing"
}

// tell notes a change in the ledger and the log.
func (o *owners) tell(x *owned, before string) {
	f := &x.facts
	e := secrets.Event{Kind: "certificate", Subject: x.name, Source: "cert-manager", Reason: fmt.Sprintf("%s of %s: %s", x.of, f.Issuer, f.Reason), Actor: "node"}
	at := []any{slog.String("certificate", x.name), slog.String("object", x.of.String()), slog.String("issuer", f.Issuer), slog.String("state", f.State), slog.String("reason", f.Reason)}
	switch {
	case wrongIssuance(f.State):
		e.Result = "issuance_" + f.State
		o.log.Warn("cert-manager's issuance of a certificate in use is not as it should be", at...)
	case wrongIssuance(before):
		e.Result = "issuance_recovered"
		o.log.Info("cert-manager's issuance of a certificate in use is as it should be again", at...)
	default:
		return
	}
	o.event(e)
}

// owned is what metrics tell of the certificates in use that cert-manager issues.
func (n *node) owned() []telemetry.Owned {
	var list []telemetry.Owned
	for _, x := range n.owners.inUse(time.Now()) {
		list = append(list, telemetry.Owned{Name: x.name, ID: x.id, Certificate: x.facts.Certificate, Issuer: x.facts.Issuer, State: x.facts.State, Bad: x.bad, Attempts: x.facts.Attempts, Renewal: x.facts.Renewal})
	}
	return list
}

// attribute adds to certificates whose they are.
func (o *owners) attribute(list []certFacts, now time.Time) []certFacts {
	of := map[string]*ownerFacts{}
	for _, x := range o.inUse(now) {
		of[x.id] = &x.facts
	}
	for i := range list {
		list[i].Owner = of[list[i].ID]
	}
	return list
}

// ask answers whether a certificate of the cluster can be renewed by cert-manager, and
// asks for it.
func (o *owners) ask(ctx context.Context, name string, ref secrets.Ref) (note string, err error) {
	if o == nil {
		return "", fmt.Errorf("certificate %s comes from Secret %s, and kube_cert_manager is off; set it to on, or renew the Secret where it comes from", name, ref.Resource)
	}
	of, ok := o.of(ref)
	if !ok {
		text := "no Certificate of cert-manager writes it; renew it where it comes from"
		if remarks := o.certs.Remarks(); len(remarks) > 0 {
			text = "whether cert-manager issues it is not known: " + strings.Join(remarks, "; ")
		}
		return "", fmt.Errorf("certificate %s comes from Secret %s: %s", name, ref.Resource, text)
	}
	if err := o.certs.Renew(ctx, of); err != nil && !errors.Is(err, certmanager.ErrUnderWay) {
		return "", err
	} else if err != nil {
		return err.Error(), nil
	}
	return fmt.Sprintf("cert-manager was asked to issue %s of %s anew; `keyway certs show` tells how that goes", of, of.Issuer), nil
}

// reissue answers `keyway certs renew` for a certificate of the cluster.
func (n *node) reissue(ctx context.Context, a control.Action, f *renewFacts, id string, ref secrets.Ref) error {
	note, err := n.owners.ask(ctx, f.Certificate, ref)
	if err != nil {
		return err
	}
	n.did(a, "renew", a.Reason, f.Before)
	if f.Serves = n.awaitVersion(ctx, id, f.Before); f.Serves == f.Before {
		f.Note = note
	}
	return nil
}
