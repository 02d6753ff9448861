package main

import (
	"context"
	"crypto/tls"
	_ "embed"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/acme"
	"github.com/keyway-edge/keyway/certs/devca"
	"github.com/keyway-edge/keyway/certs/ocsp"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
	"github.com/keyway-edge/keyway/edge/handover"
	"github.com/keyway-edge/keyway/edge/http1"
	"github.com/keyway-edge/keyway/edge/http2"
	"github.com/keyway-edge/keyway/edge/rulings"
	"github.com/keyway-edge/keyway/edge/stream"
	"github.com/keyway-edge/keyway/edge/telemetry"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/provide/file"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/vault"
)

//go:embed starter.yaml
var starter string

// node is one running gateway, wired.
type node struct {
	overload   *edge.Overload
	mirrors    *edge.Mirrors
	settings   *settings
	config     *edge.Config
	log        *slog.Logger
	out        io.Writer
	documents  *file.Provider
	broker     *secrets.Broker
	hcv        *vault.Client // the node's own Vault, nil for none
	vaults     *vaults
	lastGood   *lastGood // nil when it is off
	ledger     *secrets.Ledger
	publisher  *edge.Publisher
	telemetry  *telemetry.Telemetry
	events     telemetry.Events
	access     *telemetry.AccessLog
	pools      *upstream.Pools
	shared     certs.SharedState
	tickets    *certs.Tickets
	ech        *certs.ECH // nil when it is off
	challenges *acme.Challenges
	orders     *acme.Stats
	demand     *acme.Demand
	desired    *demanded // documents, with certificates on demand
	cluster    *cluster  // objects of a cluster, nil for none
	owners     *owners   // of certificates, at cert-manager; nil for none
	server     *edge.Server
	packets    *stream.Packets
	declared   *edge.Declared // listeners of documents
	stapler    *ocsp.Stapler  // nil when it is off
	rulings    *rulings.Store
	condemned  chan struct{} // certificates were revoked
	untold     untold
	term       *edge.Terminator
	draining   atomic.Bool
	sockets    *handover.Sockets
	sides      []sideListener
	control    *control.Server
	notifier   *handover.Notifier
	succession succession
}

// newNode wires a node. It opens files and listeners and starts nothing else. Where it is
// to take another process's place, it takes its sockets and leaves its files alone.
func newNode(ctx context.Context, s *settings, log *slog.Logger, out io.Writer, from *predecessor) (*node, error) {
	n := &node{settings: s, log: log, out: out, condemned: make(chan struct{}, 1), sockets: from.sockets(), notifier: handover.NewNotifier()}
	n.succession.begin(from)
	n.config = &edge.Config{
		Version: version, NodeID: s.NodeID, Policy: s.RequestPolicy, TrustedIPs: s.TrustedIPs,
		RealIPHeader: s.RealIPHeader, RealIPRecursive: s.RealIPRecursive, Forwarded: s.UpstreamForwarded, Headers: s.Headers,
		HeadersUpstream: s.HeadersUpstream, AllowDebugHeader: s.AllowDebugHeader, Development: s.development(), PortMaps: s.PortMaps,
	}
	if s.NodeID == "" {
		id, err := nodeID(s.DataDir)
		if err != nil {
			return nil, err
		}
		n.config.NodeID = id
	}
	if err := n.stores(); err != nil {
		return nil, err
	}
	if err := n.openVault(); err != nil {
		return nil, err
	}
	n.openLastGood(ctx)
	if err := n.keys(ctx); err != nil {
		return nil, err
	}
	n.provider()
	if err := n.openKube(); err != nil {
		return nil, err
	}
	if err := n.openCertManager(); err != nil {
		return nil, err
	}
	if err := n.credentials(); err != nil {
		return nil, err
	}
	n.demand = acme.NewDemand(n.shared, n.log)
	n.desired = newDemanded(n.inputs(), n.demand)
	if err := n.dataPath(ctx); err != nil {
		return nil, err
	}
	// A node that has nothing to serve says why and does not start; one that runs,
	// or that did, keeps what it serves whatever a document becomes.
	if problems := n.documents.Load(); len(problems) > 0 {
		if err := n.fallBack(problems); err != nil {
			return nil, err
		}
	}
	if err := n.awaitKube(); err != nil {
		return nil, err
	}
	if n.lastGood != nil {
		n.lastGood.state = nil
	}
	if err := n.listen(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// development says whether the development CA is on.
func (s *settings) development() bool {
	return s.Development == "on" || s.Development == "auto" && s.starts()
}

// starts says whether the node has nothing of its own to serve and shows what it can.
func (s *settings) starts() bool { return len(s.Documents) == 0 && !s.Kube.On }

// stores opens the ledger and the access log.
func (n *node) stores() error {
	var err error
	if n.ledger, err = n.openLedger(); err != nil {
		return err
	}
	switch n.settings.AccessLog {
	case "off":
	case "stdout":
		n.access = telemetry.NewAccessLog(n.out, n.settings.AccessLogSample)
	default:
		if n.access, err = telemetry.OpenAccessLog(n.settings.AccessLog, n.settings.AccessLogSample); err != nil {
			return err
		}
	}
	return nil
}

// provider makes the provider of documents.
func (n *node) provider() {
	var extra []spec.Source
	if n.settings.starts() {
		text := strings.ReplaceAll(starter, "@ECHO@", n.settings.EchoListen)
		extra = append(extra, spec.Source{Name: "starter.yaml", Data: []byte(text)})
	}
	n.documents = file.New(n.settings.Documents, extra, schemas(), func(problems spec.Problems) {
		n.telemetry.BuildFailed()
		for _, p := range problems {
			n.log.Error("document refused", slog.String("problem", p.Error()))
		}
		n.log.Error("nothing was changed: what served before keeps serving", slog.Int("problems", len(problems)))
	})
	n.documents.Pause = n.newPacer().pause
	n.documents.Judge = func(d *spec.Document) spec.Problems { return d.CheckFlavor(n.settings.RouterFlavor) }
}

// dataPath makes what serves requests.
func (n *node) dataPath(ctx context.Context) error {
	s := n.settings
	n.overload = &edge.Overload{MaxRequests: s.MaxInFlight, PerClient: s.MaxOfClient, Memory: guardMemory(s.MemoryLimit), Log: n.log}
	n.mirrors = &edge.Mirrors{}
	n.telemetry = telemetry.New(telemetry.Options{
		Overload: n.overload, Mirrors: n.mirrors,
		Version: version, NodeID: n.config.NodeID, Ledger: n.ledger, Access: n.access, Log: n.log,
		Current: func() *edge.Snapshot { return n.publisher.Current() }, Broker: n.broker.Stats, Credentials: n.broker.Current, LastGood: n.lastGoodFacts,
		Staples: n.staples, Issuers: n.issuers, Owned: n.owned, Kube: n.kubeFacts, Keys: n.keyRings, Events: &n.events, Upgrades: n.upgradeFacts, Listeners: n.listenerFacts,
	})
	groups, err := curves(s.TLSCurves)
	if err != nil {
		return err
	}
	n.pools = upstream.NewPools(upstream.Settings{
		PoolSize: s.UpstreamPool, MaxRequests: s.UpstreamRequests, IdleTimeout: s.UpstreamIdle, VerifyDefault: s.UpstreamVerify,
		SpoolDir: filepath.Join(s.DataDir, "spool"), Zone: s.Zone, Node: n.config.NodeID, Resolver: upstream.NewResolver(s.DNSResolver),
	})
	base := certs.Base{NextProtos: []string{"h2", "http/1.1"}, Tickets: n.tickets, ECH: n.ech, Curves: groups}
	builder := &edge.Builder{
		Config: n.config, Kinds: plugins(), Pools: n.pools, Pause: n.newPacer().pause, Fixed: s.fixed(),
		Env: policy.Env{
			Shared: sharedState(), Metrics: n.telemetry, Log: n.log,
			Node: policy.NodeInfo{ID: n.config.NodeID, Version: version, Token: n.config.Token()},
		},
	}
	if builder.DefaultCert, builder.DefaultKey, err = n.vaults.defaultPair(s); err != nil {
		return err
	}
	n.publisher = edge.NewPublisher(builder, n.desired, n.broker, n.recorder(), n.vaults.plan, n.log)
	if err := n.certify(ctx, builder); err != nil {
		return err
	}
	var dev edge.DevIssuer
	if n.config.Development {
		ca, err := devca.Open(s.DataDir)
		if err != nil {
			return fmt.Errorf("opening the development CA: %w", err)
		}
		dev = ca
	}
	n.term = edge.NewTerminator(n.publisher, n.config, base, dev)
	return nil
}

// listen makes the engines and opens the listeners of the proxy.
func (n *node) listen(ctx context.Context) error {
	s := n.settings
	handler := edge.NewHandler(n.config, n.publisher, n.telemetry, n.log)
	handler.Refresh(n.broker)
	handler.Guard(n.overload)
	handler.Mirror(n.mirrors)
	handler.Challenges(n.challenges)
	n.term.Challenges(n.challenges)
	n.term.Demand(n.demand.Want)
	h2 := http2.New(handler, http2.Settings{
		MaxStreams: uint32(s.HTTP2Streams), HeaderList: s.HeaderLimit, Line: s.LineLimit, Target: s.TargetLimit, Fields: s.FieldLimit,
		Head: s.HeaderTimeout, Idle: s.IdleTimeout, BodyIdle: s.BodyIdle, MinRate: s.MinBodyRate, WriteStall: s.WriteStall, MaxBody: s.BodyLimit,
	})
	h1 := newHTTP1(handler, s)
	n.packets = n.newPackets()
	n.server = &edge.Server{
		Streams:   stream.New(n.publisher.Current, n.telemetry, n.log),
		Endpoints: n.endpoints(), Pattern: s.pattern(), Sockets: n.sockets, Config: n.config, Terminator: n.term, HTTP1: h1, HTTP2: h2, HTTP3: newHTTP3(handler, s), Observer: n.telemetry,
		Overload: n.overload, Log: n.log, HandshakeTimeout: s.HandshakeTimeout, Grace: s.Grace, MaxConns: s.MaxConnections, MaxPerClient: s.MaxPerClient, MaxHandshakes: s.MaxHandshakes,
	}
	n.declared = edge.NewDeclared(n.publisher, n.server, n.packets, n.log)
	if err := n.server.Listen(ctx); err != nil {
		return err
	}
	if err := n.packets.Listen(ctx); err != nil {
		return err
	}
	if err := n.openSides(ctx); err != nil {
		return err
	}
	n.control = control.New(n.settings.DataDir, (*controlled)(n))
	return n.control.Listen(ctx, n.sockets)
}

func (n *node) endpoints() []edge.Endpoint {
	var all []edge.Endpoint
	add := func(name string, addresses []string, secure bool) {
		for _, a := range addresses {
			all = append(all, edge.Endpoint{Name: name, Address: a, TLS: secure, Policy: n.settings.ListenerPolicies[a], Proxied: n.settings.proxied(a), H2C: !secure && n.settings.clearHTTP2(a), HTTP3: secure && n.settings.speaksHTTP3(a), NoHTTP3: secure && slices.Contains(n.settings.HTTP3, "clear"), MaxConns: n.settings.MaxPerListener.of(a)})
		}
	}
	add("proxy", n.settings.ProxyListen, false)
	add("proxy-tls", n.settings.ProxyTLSListen, true)
	return append(all, n.settings.streamEndpoints()...)
}

// nodeID reads this node's id, or makes and keeps one.
func nodeID(dir string) (string, error) {
	path := filepath.Join(dir, "node-id")
	if data, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(data))) == 36 {
		return strings.TrimSpace(string(data)), nil
	}
	id := newUUID()
	if err := os.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keeping the node's id: %w", err)
	}
	return id, nil
}

// curves reads the names of key exchange groups.
func curves(names []string) ([]tls.CurveID, error) {
	known := map[string]tls.CurveID{"X25519MLKEM768": tls.X25519MLKEM768, "X25519": tls.X25519, "P256": tls.CurveP256, "P384": tls.CurveP384, "P521": tls.CurveP521}
	var list []tls.CurveID
	for _, name := range names {
		id, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("%q is no group that this node knows", name)
		}
		list = append(list, id)
	}
	return list, nil
}

// newHTTP1 makes the HTTP/1.1 engine.
func newHTTP1(h *edge.Handler, s *settings) *http1.Server {
	return &http1.Server{
		Handler: h, Limits: wire.Limits{Head: s.HeaderLimit, Line: s.LineLimit, Fields: s.FieldLimit, Target: s.TargetLimit},
		HeadTimeout: s.HeaderTimeout, BodyIdle: s.BodyIdle, MinRate: s.MinBodyRate, WriteStall: s.WriteStall,
		Idle: s.IdleTimeout, MaxRequests: s.KeepaliveMax, MaxBody: s.BodyLimit,
	}
}
