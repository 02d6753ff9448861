package kube

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
	"github.com/keyway-edge/keyway/routing/spec"
	secretskube "github.com/keyway-edge/keyway/secrets/kube"
)

// Config is the settings of a Provider.
type Config struct {
	Connection  secretskube.Config
	Namespaces  []string // that are watched, none for all
	Class       string   // name of the class of objects that are served
	Controllers []string // names by which an IngressClass may call this controller
	Vault       string   // prefix of the broker's vault of Secrets
	Schemas     spec.Schemas
	Log         *slog.Logger
}

// Provider makes documents of the objects of a cluster. Make one with New.
type Provider struct {
	cfg     Config
	api     *api
	own     string // namespace
	inbox   *inbox
	sources []*source
	changed chan struct{} // capacity 1

	state *translate.State // owned by Run

	mu       sync.Mutex // guards the group below
	document *spec.Document
	findings []translate.Finding
}

// resources are what is watched. Those of a kind that the server may not know come
// with definitions of their own.
func resources() []*resource {
	const kong = "apis/configuration.konghq.com/"
	return []*resource{
		{kind: translate.KindIngressClass, group: "apis/networking.k8s.io/v1", plural: "ingressclasses", global: true},
		{kind: translate.KindIngress, group: "apis/networking.k8s.io/v1", plural: "ingresses"},
		{kind: translate.KindService, group: "api/v1", plural: "services"},
		{kind: translate.KindEndpointSlice, group: "apis/discovery.k8s.io/v1", plural: "endpointslices", selector: "kubernetes.io/service-name"},
		{kind: translate.KindParameters, group: kong + "v1alpha1", plural: "ingressclassparameterses", custom: true},
	}
}

// New makes a Provider. It reads files and asks the API server nothing.
func New(cfg Config) (*Provider, error) {
	base, client, own, err := cfg.Connection.Connect()
	if err != nil {
		return nil, fmt.Errorf("connecting to Kubernetes: %w", err)
	}
	p := &Provider{
		cfg: cfg, api: &api{base, client}, own: own, inbox: newInbox(), changed: make(chan struct{}, 1),
		state: translate.NewState(translate.Config{Class: cfg.Class, Controllers: cfg.Controllers, Vault: cfg.Vault, Schemas: cfg.Schemas}),
	}
	for _, r := range resources() {
		namespaces := cfg.Namespaces
		if r.global || len(namespaces) == 0 {
			namespaces = []string{""}
		}
		for _, ns := range namespaces {
			p.sources = append(p.sources, &source{resource: r, namespace: ns, api: p.api, inbox: p.inbox, log: cfg.Log, known: map[translate.Ref]struct{}{}})
		}
	}
	return p, nil
}

// Current answers the latest document, nil before the cluster was read for the first
// time, and as problems what was refused of its objects.
func (p *Provider) Current() (*spec.Document, spec.Problems) {
	p.mu.Lock()
	defer p.mu.Unlock()
	problems := make(spec.Problems, 0, len(p.findings))
	for _, f := range p.findings {
		problems = append(problems, &spec.Problem{
			Pos: spec.Pos{File: "kubernetes"}, Entity: f.Object.Kind, ID: f.UID, Name: f.Object.Namespace + "/" + f.Object.Name,
			Field: f.Field, Reason: spec.ReasonValue, Message: f.Message,
		})
	}
	return p.document, problems
}

// Changed hints that Current may answer something new.
func (p *Provider) Changed() <-chan struct{} { return p.changed }

// Remarks says what of the cluster cannot be read now.
func (p *Provider) Remarks() []string {
	var list []string
	for _, s := range p.sources {
		if err := s.failure(); err != nil {
			where := s.namespace
			if where == "" {
				where = "all namespaces"
			}
			list = append(list, fmt.Sprintf("%s of %s cannot be read from the API server: %v; what was read last is served", s.plural, where, err))
		}
	}
	return list
}

// Run watches the cluster and makes documents of it until ctx ends.
func (p *Provider) Run(ctx context.Context) error {
	defer p.api.client.CloseIdleConnections()
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for _, s := range p.sources {
		all.Go(func() { _ = s.run(ctx) })
	}
	return p.loop(ctx)
}

// settle is how long changes are let come together at the least; a document that took
// long to make is given as long again, so that a storm of changes leaves room.
const settle = 5 * time.Millisecond

// loop owns the state. It reacts to two things: objects changed, and ctx ended.
func (p *Provider) loop(ctx context.Context) error {
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.inbox.ready:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-quiet.C:
		}
		began := time.Now()
		changed, listed := p.inbox.take()
		for r, o := range changed {
			if o == nil {
				p.state.Delete(r)
			} else {
				p.state.Put(o)
			}
		}
		if listed == len(p.sources) { // or it would be a document of half a cluster
			p.offer(p.state.Document(), p.state.Findings())
		}
		quiet.Reset(max(settle, time.Since(began)))
	}
}

// offer makes a document the current one, and tells what is newly refused.
func (p *Provider) offer(doc *spec.Document, findings []translate.Finding) {
	p.mu.Lock()
	old, before := p.document, p.findings
	p.document, p.findings = doc, findings
	p.mu.Unlock()
	known := make(map[translate.Finding]bool, len(before))
	for _, f := range before {
		known[f] = true
	}
	for _, f := range findings {
		if !known[f] {
			p.cfg.Log.Warn("object refused", slog.String("object", f.Object.String()), slog.String("field", f.Field), slog.String("problem", f.Message), slog.String("effect", string(f.Effect)))
		}
	}
	if old != doc || !slices.Equal(before, findings) {
		hint(p.changed)
	}
}
