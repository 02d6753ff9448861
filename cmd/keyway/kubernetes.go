package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/routing/provide/file"
	"github.com/keyway-edge/keyway/routing/provide/kube"
	"github.com/keyway-edge/keyway/routing/provide/kube/admission"
	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
	secretskube "github.com/keyway-edge/keyway/secrets/kube"
)

// kubeVault is the vault of the Secrets that objects of the cluster refer to; no
// document can name it, since prefixes have no dot.
const kubeVault = "node.kubernetes"

// kubeChoice is what the settings say of a cluster.
type kubeChoice struct {
	On          bool
	Config      string // path, "" for the pod's account
	Context     string
	Namespaces  []string // none for all
	Selectors   kube.Selectors
	Class       string
	Controllers []string
	Gateways    []string // controllers of a GatewayClass
	Addresses   []string // of Gateways
	Entities    []string // namespaces of KongCustomEntities that are served

	PublishService   string
	PublishAddresses []translate.Address

	CertManager bool     // its Certificates are watched
	Admission   []string // addresses of the webhook
}

// kubeSettings are how a node is a controller of a cluster.
func kubeSettings() []setting {
	return []setting{
		{key: "kubernetes", def: "off", form: "on or off", meaning: "serve the Ingresses and other objects of a Kubernetes cluster", apply: boolean(func(s *settings) *bool { return &s.Kube.On })},
		{key: "kube_kubeconfig", def: "", form: "the absolute path of a kubeconfig file", meaning: "how the API server is reached; the pod's own account when empty", apply: absolute(func(s *settings) *string { return &s.Kube.Config })},
		{key: "kube_context", def: "", form: "a name", meaning: "context of the kubeconfig; its current one when empty", apply: text(func(s *settings) *string { return &s.Kube.Context })},
		{key: "kube_namespaces", def: "", form: "a comma list of namespaces", meaning: "those whose objects are served; all when empty", apply: func(s *settings, v string) error {
			s.Kube.Namespaces = commaList(v)
			return kubeNames(s.Kube.Namespaces)
		}},
		{key: "kube_ingress_class", def: "keyway", form: "a name", meaning: "the class of Ingresses and other objects that are served", apply: func(s *settings, v string) error {
			s.Kube.Class = v
			return kubeNames([]string{v})
		}},
		{key: "kube_controllers", def: "keyway.dev/ingress", form: "a comma list of names such as keyway.dev/ingress, ingress-controllers.konghq.com/kong", meaning: "names by which an IngressClass may call this controller", apply: func(s *settings, v string) error {
			return kubeControllers(&s.Kube.Controllers, v)
		}},
		{key: "kube_gateway_controllers", def: "keyway.dev/gateway", form: "a comma list of names such as keyway.dev/gateway, konghq.com/kic-gateway-controller", meaning: "names by which a GatewayClass may call this controller", apply: func(s *settings, v string) error {
			return kubeControllers(&s.Kube.Gateways, v)
		}},
		{key: "kube_gateway_addresses", def: "", form: "a comma list of IP addresses of the node", meaning: "addresses of which each Gateway gets one of its own; Gateways share all addresses when empty", apply: func(s *settings, v string) error {
			s.Kube.Addresses = nil
			for _, item := range commaList(v) {
				a, err := netip.ParseAddr(item)
				if err != nil || a.Zone() != "" {
					return fmt.Errorf("%q is no IP address", item)
				}
				s.Kube.Addresses = append(s.Kube.Addresses, a.Unmap().String())
			}
			return nil
		}},
		{key: "kube_custom_entities", def: "", form: "a comma list of namespaces, or *", meaning: "namespaces whose KongCustomEntities are served: who may write them decides how TLS is spoken for names of the node; none when empty", apply: func(s *settings, v string) error {
			if s.Kube.Entities = commaList(v); v == "*" {
				return nil
			}
			return kubeNames(s.Kube.Entities)
		}},
		{key: "kube_publish_service", def: "", form: "namespace/name", meaning: "the Service whose addresses the status of Ingresses and Gateways says", apply: func(s *settings, v string) error {
			s.Kube.PublishService = v
			if namespace, name, ok := strings.Cut(v, "/"); v != "" && (!ok || kubeNames([]string{namespace, name}) != nil) {
				return fmt.Errorf("%q is not", v)
			}
			return nil
		}},
		{key: "kube_publish_address", def: "", form: "a comma list of addresses and host names", meaning: "what the status of Ingresses and Gateways says in place of the addresses of a Service", apply: func(s *settings, v string) error {
			s.Kube.PublishAddresses = nil
			for _, item := range commaList(v) {
				if _, err := netip.ParseAddr(item); err == nil {
					s.Kube.PublishAddresses = append(s.Kube.PublishAddresses, translate.Address{IP: item})
				} else if err := kubeNames([]string{item}); err != nil {
					return err
				} else {
					s.Kube.PublishAddresses = append(s.Kube.PublishAddresses, translate.Address{Hostname: item})
				}
			}
			return nil
		}},
		{key: "admission_tls_listen", def: "off", form: "a comma list of host:port, or off", meaning: "where the API server has objects judged before it stores them, over TLS with the certificate of the name that it asks for", apply: addresses(func(s *settings) *[]string { return &s.Kube.Admission })},
	}
}

// kubeControllers reads names of controllers.
func kubeControllers(list *[]string, v string) error {
	*list = commaList(v)
	if len(*list) == 0 || slices.ContainsFunc(*list, func(name string) bool { return !strings.Contains(name, "/") }) {
		return fmt.Errorf("%q is not", v)
	}
	return nil
}

// admission is the webhook of the cluster.
func (n *node) admission() http.Handler {
	s := n.settings
	return admission.Handler(translate.Config{Class: s.Kube.Class, Controllers: s.Kube.Controllers, CustomEntities: s.Kube.Entities, Vault: kubeVault, Schemas: schemas()}, s.takes(), n.log)
}

// kubeNames checks names of objects.
func kubeNames(list []string) error {
	for _, name := range list {
		if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
			return fmt.Errorf("%q is no name of an object", name)
		}
	}
	return nil
}

// kubeConnection is how the API server is reached.
func (s *settings) kubeConnection() secretskube.Config {
	return secretskube.Config{Kubeconfig: s.Kube.Config, Context: s.Kube.Context}
}

// secretsOfCluster is the vault that references of the provider go to, in the form of
// the broker's configuration.
func (s *settings) secretsOfCluster() secrets.Vault {
	namespaces := []any{"*"}
	if len(s.Kube.Namespaces) > 0 {
		namespaces = nil
		for _, name := range s.Kube.Namespaces {
			namespaces = append(namespaces, name)
		}
	}
	config := map[string]any{"namespaces": namespaces}
	if s.Kube.Config != "" {
		config["kubeconfig"] = s.Kube.Config
	}
	if s.Kube.Context != "" {
		config["context"] = s.Kube.Context
	}
	if s.Kube.Selectors.Secrets != "" {
		config["label_selector"] = s.Kube.Selectors.Secrets
	}
	return secrets.Vault{Name: kubeVault, Kind: "kube", Config: config}
}

// openKube makes the provider of the cluster's objects, if there is to be one.
func (n *node) openKube() error {
	s := n.settings
	if !s.Kube.On {
		return nil
	}
	p, err := kube.New(kube.Config{
		Connection: s.kubeConnection(), Namespaces: s.Kube.Namespaces, Selectors: s.Kube.Selectors, Class: s.Kube.Class, Controllers: s.Kube.Controllers, GatewayControllers: s.Kube.Gateways, GatewayAddresses: s.Kube.Addresses, CustomEntities: s.Kube.Entities,
		Vault: kubeVault, Schemas: schemas(), Log: n.log, Ports: n.ports,
		PublishService: s.Kube.PublishService, PublishAddresses: s.Kube.PublishAddresses, Identity: n.config.NodeID,
		LeftOut: func() (spec.Problems, bool) { return n.cluster.leftOut() },
	})
	if err != nil {
		return fmt.Errorf("setting kubernetes: %w", err)
	}
	n.cluster = &cluster{files: n.documents, objects: p, changed: make(chan struct{}, 1)}
	n.vaults.fixed = append(n.vaults.fixed, s.secretsOfCluster())
	return nil
}

// cluster is the objects of a cluster as documents, together with what files say.
type cluster struct {
	files   *file.Provider
	objects *kube.Provider
	changed chan struct{}

	mu         sync.Mutex // guards the group below
	file, kube *spec.Document
	merger     spec.Merger
	both       *spec.Document
	clashes    spec.Problems
	kept       *spec.Document // what was served last, for as long as the cluster is away

	waiting *spec.Document // to be kept, if the cluster is away; of the start, then of bridge
	written time.Time      // when that was written; not changed after the start
}

// Changed hints about both.
func (c *cluster) Changed() <-chan struct{} { return c.changed }

// Current is the latest documents of both as one, the same one for as long as neither
// changes; nil before the cluster was read.
func (c *cluster) Current() (*spec.Document, spec.Problems) {
	files, problems := c.files.Current()
	objects, found := c.objects.Current()
	problems = slices.Concat(problems, found)
	c.mu.Lock()
	defer c.mu.Unlock()
	if objects == nil || files == nil {
		return c.kept, problems
	}
	c.kept = nil
	if files != c.file || objects != c.kube {
		c.file, c.kube = files, objects
		c.both, c.clashes = c.merger.Merge(files, objects)
	}
	return c.both, slices.Concat(problems, c.clashes)
}

// leftOut is what of the cluster's document is not served, since files have its place, and
// whether the two were put together yet.
func (c *cluster) leftOut() (spec.Problems, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clashes, c.both != nil
}

// fallBack makes what was served last current until the cluster was read.
func (c *cluster) fallBack(doc *spec.Document) {
	c.mu.Lock()
	c.kept = doc
	c.mu.Unlock()
	c.hint()
}

func (c *cluster) hint() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Run forwards hints until ctx ends.
func (c *cluster) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.files.Changed():
			if doc, _ := c.files.Current(); doc != nil {
				c.objects.Declare(doc.Vaults)
			}
		case <-c.objects.Changed():
		}
		c.hint()
	}
}

// awayMost is how long a start waits for the cluster before it serves what was served last.
const awayMost = 5 * time.Second

// inputs are all documents of the node.
func (n *node) inputs() edge.Documents {
	if n.cluster != nil {
		return n.cluster
	}
	return n.documents
}

// awaitKube reads what was served last, in case the cluster is away at this start.
func (n *node) awaitKube() error {
	if n.cluster == nil {
		return nil
	}
	if doc, _ := n.documents.Current(); doc != nil {
		n.cluster.objects.Declare(doc.Vaults) // before the cluster is read for the first time
	}
	if n.lastGood == nil || n.lastGood.state == nil || n.lastGood.started != nil {
		return nil
	}
	doc, err := n.lastGood.document()
	if err != nil {
		n.log.Error("what was served last cannot be used while the cluster is away", slog.Any("error", err))
		return nil
	}
	n.cluster.waiting, n.cluster.written = doc, n.lastGood.state.Written
	return nil
}

// kubeTasks are what a node of a cluster runs besides.
func (n *node) kubeTasks() []task {
	if n.cluster == nil {
		return nil
	}
	return append([]task{
		{"objects of the cluster", n.cluster.objects.Run},
		{"documents of files and the cluster", n.cluster.Run},
		{"a cluster that is away", n.bridge},
	}, n.owners.tasks()...)
}

// bridge serves what was served last, if the cluster is away at a start.
func (n *node) bridge(ctx context.Context) error {
	if n.cluster.waiting != nil {
		wait := time.NewTimer(awayMost)
		defer wait.Stop()
		select {
		case <-ctx.Done():
		case <-n.publisher.Ready():
		case <-wait.C:
			n.log.Error("STARTING FROM THE LAST KNOWN GOOD DOCUMENT: the Kubernetes API server was not read yet", slog.Time("written", n.cluster.written))
			n.event(secrets.Event{Kind: "document", Subject: "documents", Source: "last known good", Result: "stale", Reason: "the Kubernetes API server was not read yet", Actor: "node"})
			n.cluster.fallBack(n.cluster.waiting)
		}
		n.cluster.waiting = nil
	}
	<-ctx.Done()
	return nil
}

// kubeRemarks says what of the cluster cannot be read.
func (n *node) kubeRemarks() []string {
	if n.cluster == nil {
		return nil
	}
	list := append(n.cluster.objects.Remarks(), n.owners.remarks()...)
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	if n.cluster.kept != nil {
		list = append(list, "serving the last known good document of "+n.cluster.written.Format(time.RFC3339)+": the Kubernetes API server was not read yet")
	}
	return list
}
