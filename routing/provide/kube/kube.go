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
	"github.com/keyway-edge/keyway/secrets/kube/cluster"
)

// Config is the settings of a Provider.
type Config struct {
	Connection  secretskube.Config
	Namespaces  []string // that are watched, none for all
	Selectors   Selectors
	Class       string   // name of the class of objects that are served
	Controllers []string // names by which an IngressClass may call this controller

	GatewayControllers []string // and a GatewayClass
	GatewayAddresses   []string // of which each Gateway gets one of its own; none to share all
	CustomEntities     []string // namespaces whose KongCustomEntities are served, * for all
	Vault              string   // prefix of the broker's vault of Secrets
	Schemas            spec.Schemas
	// PublishAddresses are what the status of Ingresses and Gateways says, PublishService is the
	// Service (namespace/name) whose addresses it says in their place.
	PublishAddresses []translate.Address
	PublishService   string
	// Ports says how the listeners of the document stand on this node; nil for nobody who knows.
	Ports func() translate.Ports
	// LeftOut says what of the document is not served, since other documents have its place, and
	// whether that is known yet: until then no status says that something is served. It is nil
	// where no other documents are.
	LeftOut  func() (problems spec.Problems, known bool)
	Identity string // of this replica
	Log      *slog.Logger
}

// Provider makes documents of the objects of a cluster. Make one with New.
type Provider struct {
	cfg     Config
	api     *cluster.API
	own     string // namespace
	inbox   *inbox
	sources []*source
	changed chan struct{} // capacity 1
	publish *published    // nil where the state has its Service, or there is none
	plans   plans
	counts  counts

	state  *translate.State            // owned by Run
	wanted map[translate.Ref]*followed // likewise: Secrets and ConfigMaps that something names
	places map[string]*place           // likewise: namespaces that the selector takes

	mu       sync.Mutex               // guards the group below
	placed   []*source                // of places
	past     map[string]cluster.Facts // of places that are no more, by kind
	document *spec.Document
	findings []translate.Finding
	vaults   []*spec.Vault // that other documents declare
	notices  []Notice
}

// followed is a source of one object.
type followed struct {
	*source
	stop func() // and wait
}

// resources are what is watched. Those of a kind that the server may not know come
// with definitions of their own.
func resources() []*resource {
	const kong, gateway = "apis/configuration.konghq.com/", "apis/gateway.networking.k8s.io/v1"
	return []*resource{
		{kind: translate.KindIngressClass, group: "apis/networking.k8s.io/v1", plural: "ingressclasses", global: true},
		{kind: translate.KindIngress, group: "apis/networking.k8s.io/v1", plural: "ingresses", labelled: true},
		{kind: translate.KindService, group: "api/v1", plural: "services"},
		{kind: translate.KindEndpointSlice, group: "apis/discovery.k8s.io/v1", plural: "endpointslices", selector: "kubernetes.io/service-name"},
		{kind: translate.KindParameters, group: kong + "v1alpha1", plural: "ingressclassparameterses", custom: true},
		{kind: translate.KindPlugin, group: kong + "v1", plural: "kongplugins", custom: true},
		{kind: translate.KindClusterPlugin, group: kong + "v1", plural: "kongclusterplugins", global: true, custom: true, guards: true},
		{kind: translate.KindConsumer, group: kong + "v1", plural: "kongconsumers", custom: true, labelled: true},
		{kind: translate.KindConsumerGroup, group: kong + "v1beta1", plural: "kongconsumergroups", custom: true},
		{kind: translate.KindUpstreamPolicy, group: kong + "v1beta1", plural: "kongupstreampolicies", custom: true},
		{kind: translate.KindVault, group: kong + "v1alpha1", plural: "kongvaults", global: true, custom: true},
		{kind: translate.KindCustomEntity, group: kong + "v1alpha1", plural: "kongcustomentities", custom: true},
		{kind: translate.KindKongIngress, group: kong + "v1", plural: "kongingresses", custom: true},
		{kind: translate.KindTCPIngress, group: kong + "v1beta1", plural: "tcpingresses", custom: true, labelled: true},
		{kind: translate.KindUDPIngress, group: kong + "v1beta1", plural: "udpingresses", custom: true, labelled: true},
		{kind: translate.KindGatewayClass, group: gateway, plural: "gatewayclasses", global: true, custom: true},
		{kind: translate.KindGateway, group: gateway, plural: "gateways", custom: true, labelled: true},
		{kind: translate.KindListenerSet, group: gateway, plural: "listenersets", custom: true, labelled: true},
		{kind: translate.KindHTTPRoute, group: gateway, plural: "httproutes", custom: true, labelled: true},
		{kind: translate.KindGRPCRoute, group: gateway, plural: "grpcroutes", custom: true, labelled: true},
		{kind: translate.KindTLSRoute, group: gateway, plural: "tlsroutes", custom: true, labelled: true},
		{kind: translate.KindTCPRoute, group: gateway, plural: "tcproutes", custom: true, labelled: true},
		{kind: translate.KindUDPRoute, group: gateway, plural: "udproutes", custom: true, labelled: true},
		{kind: translate.KindBackendTLS, group: gateway, plural: "backendtlspolicies", custom: true},
		{kind: translate.KindGrant, group: gateway, plural: "referencegrants", custom: true},
		{kind: translate.KindNamespace, group: "api/v1", plural: "namespaces", global: true},
		{kind: translate.KindCredential, group: "api/v1", plural: "secrets", selector: "konghq.com/credential"},
		{kind: translate.KindAuthority, group: "api/v1", plural: "secrets", selector: "konghq.com/ca-cert=true"},
		{kind: translate.KindAuthorityMap, group: "api/v1", plural: "configmaps", selector: "konghq.com/ca-cert=true"},
	}
}

// New makes a Provider. It reads files and asks the API server nothing.
func New(cfg Config) (*Provider, error) {
	base, client, own, err := cfg.Connection.Connect()
	if err != nil {
		return nil, fmt.Errorf("connecting to Kubernetes: %w", err)
	}
	p := &Provider{
		cfg: cfg, api: &cluster.API{Base: base, Client: client}, own: own, inbox: newInbox(), changed: make(chan struct{}, 1), wanted: map[translate.Ref]*followed{}, places: map[string]*place{}, past: map[string]cluster.Facts{}, plans: make(plans),
		state: translate.NewState(translate.Config{Class: cfg.Class, Controllers: cfg.Controllers, GatewayControllers: cfg.GatewayControllers, GatewayAddresses: cfg.GatewayAddresses, CustomEntities: cfg.CustomEntities, Vault: cfg.Vault, Schemas: cfg.Schemas, NamespaceSelector: cfg.Selectors.Namespaces, SecretSelector: cfg.Selectors.Secrets, ConfigMapSelector: cfg.Selectors.ConfigMaps, Shared: cfg.Selectors.Labels+cfg.Selectors.Namespaces != ""}),
	}
	p.watches()
	return p, nil
}

// watches makes the sources that there are in any case.
func (p *Provider) watches() {
	for _, r := range resources() {
		namespaces := p.cfg.Namespaces
		switch {
		case r.kind == translate.KindNamespace && p.cfg.Selectors.Namespaces != "":
			of := *r
			of.selector, of.guards = p.cfg.Selectors.Namespaces, true // which objects there are is not known without
			p.sources = append(p.sources, p.source(&of, ""))
			continue
		case r.kind == translate.KindNamespace && len(namespaces) > 0:
			for _, ns := range namespaces { // one by one: others are nobody's business here
				p.sources = append(p.sources, p.source(&resource{kind: r.kind, group: r.group, plural: r.plural, global: true, name: ns}, ""))
			}
			continue
		case !r.global && p.cfg.Selectors.Namespaces != "":
			continue // each namespace that the selector takes gets its own
		}
		if r.global || len(namespaces) == 0 {
			namespaces = []string{""}
		}
		for _, ns := range namespaces {
			p.sources = append(p.sources, p.source(r, ns))
		}
	}
	p.publish = p.publishing()
}

// Declare says which vaults documents beside these declare: plugins may refer to them,
// as far as their rules let them.
func (p *Provider) Declare(vaults []*spec.Vault) {
	p.mu.Lock()
	p.vaults = vaults
	p.mu.Unlock()
	hint(p.inbox.ready)
}

// Current answers the latest document, nil before the cluster was read for the first
// time, and as problems what was refused of its objects.
func (p *Provider) Current() (*spec.Document, spec.Problems) {
	p.mu.Lock()
	defer p.mu.Unlock()
	problems := make(spec.Problems, 0, len(p.findings))
	for _, f := range p.findings {
		problems = append(problems, &spec.Problem{
			Pos: spec.Pos{File: "kubernetes"}, Entity: translate.Shown(f.Object.Kind), ID: f.UID, Name: f.Object.Namespace + "/" + f.Object.Name,
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
	for _, s := range p.all() {
		if text := s.Remark(); text != "" {
			list = append(list, text)
		}
	}
	return list
}

// Run watches the cluster and makes documents of it until ctx ends.
func (p *Provider) Run(ctx context.Context) error {
	defer p.api.Client.CloseIdleConnections()
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for _, s := range p.all() {
		all.Go(func() { _ = s.Run(ctx) })
	}
	all.Go(func() { _ = p.write(ctx) })
	defer func() {
		for _, f := range p.wanted {
			f.stop()
		}
		for _, at := range p.places {
			at.stop()
		}
	}()
	if p.cfg.Selectors.Labels != "" || p.cfg.Selectors.Namespaces != "" {
		p.cfg.Log.Info("objects of the cluster are taken by labels", slog.String("objects", p.cfg.Selectors.Labels), slog.String("namespaces", p.cfg.Selectors.Namespaces), slog.String("lease", p.leaseName()))
	}
	return p.loop(ctx)
}

// settle is how long changes are let come together at the least; a document that took
// long to make is given as long again, so that a storm of changes leaves room.
const settle = 5 * time.Millisecond

// loop owns the state. It reacts to three things: objects or what other documents declare
// changed; the writer asks what is to be written; and ctx ended.
func (p *Provider) loop(ctx context.Context) error {
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case q := <-p.plans:
			q.answer <- p.plan(&q)
			continue
		case <-p.inbox.ready:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-quiet.C:
		}
		began := time.Now()
		p.absorb(ctx)
		if p.whole() { // or it would be a document of half a cluster
			p.mu.Lock()
			vaults := p.vaults
			p.mu.Unlock()
			p.state.Declare(vaults)
			p.state.Unread(p.inbox.unread())
			doc := p.state.Document()
			p.counts.documents.Add(1)
			p.counts.translating.Add(int64(time.Since(began)))
			if p.follow(ctx); p.document != nil || p.whole() {
				p.offer(doc, p.state.Findings())
			}
		}
		quiet.Reset(max(settle, time.Since(began)))
	}
}

// absorb takes what changed into the state.
func (p *Provider) absorb(ctx context.Context) {
	namespaces := false
	for r, o := range p.inbox.take() {
		namespaces = namespaces || r.Kind == translate.KindNamespace
		if at := p.places[r.Namespace]; at != nil && !at.whole && !translate.Followed(r.Kind) {
			at.held[r] = o
		} else {
			p.apply(r, o)
		}
	}
	if namespaces && p.cfg.Selectors.Namespaces != "" {
		p.move(ctx)
	}
	p.admit()
}

// apply takes one object into the state, nil for gone.
func (p *Provider) apply(r translate.Ref, o translate.Object) {
	switch {
	case o == nil:
		p.state.Delete(r)
	case translate.Followed(r.Kind) && p.wanted[r] == nil:
		// It came while it ceased to be wanted.
	default:
		p.state.Put(o)
	}
}

// whole says whether everything that is watched was listed, as far as it may be.
func (p *Provider) whole() bool {
	for _, at := range p.places {
		if p.document == nil && !at.whole {
			return false
		}
	}
	return p.inbox.have(func(yield func(*source) bool) {
		for _, s := range p.sources {
			if !yield(s) {
				return
			}
		}
		if p.document != nil {
			return // what is wanted later keeps nothing else waiting
		}
		for _, f := range p.wanted {
			if !yield(f.source) {
				return
			}
		}
	})
}

// follow watches the Secrets and ConfigMaps that something names, and no others.
func (p *Provider) follow(ctx context.Context) {
	now := p.state.Wanted()
	for r, f := range p.wanted {
		if _, still := now[r]; !still {
			f.stop()
			delete(p.wanted, r)
			p.inbox.forget(f.source)
			p.state.Delete(r)
		}
	}
	for r := range now {
		if p.wanted[r] != nil {
			continue
		}
		plural := "secrets"
		if r.Kind == translate.KindBundle {
			plural = "configmaps"
		}
		s := p.source(&resource{kind: r.Kind, group: "api/v1", plural: plural, name: r.Name}, r.Namespace)
		own, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { // its owner is the entry in wanted
			defer close(done)
			_ = s.Run(own)
		}()
		p.wanted[r] = &followed{source: s, stop: func() {
			cancel()
			<-done
		}}
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
