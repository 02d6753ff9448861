package policy

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// Kind is one plugin: its name, the schema of its config and how a configured
// use of it becomes functions. cmd lists the kinds; nothing registers itself.
//
// An Instance outlives the snapshot it was compiled for as long as its entity and
// the secrets it asked for stay as they are.
type Kind struct {
	Schema  spec.PluginSchema
	Compile func(env *Env, p *spec.Plugin) (Instance, error)
	// Authenticates says that it finds out who the client is (Authenticate): what is for one
	// consumer has to run after it.
	Authenticates bool
}

// Env is what Compile may use. It starts nothing.
type Env struct {
	// Secret answers the current value of a string config field that may be a
	// reference; an error closes the routes that the plugin serves. It may be
	// called in Compile only: what it answered decides whether the instance is kept.
	Secret func(text string) (secrets.Value, error)
	// Directory is the consumers and credentials of the snapshot being built. It is
	// for the compiler, which hands it to each Context; in Compile it is nil, so
	// that no instance holds on to the consumers of an old snapshot.
	Directory *Directory
	// Shared keeps state that must outlive snapshots, such as rate counters: the
	// same key answers the same thing that make made the first time.
	Shared func(key string, make func() any) any
	// Metrics receives the plugin's own observations; see Recorder.
	Metrics Recorder
	Log     *slog.Logger
	Node    NodeInfo
}

// NodeInfo is what a plugin may know of the node.
type NodeInfo struct {
	ID      string // UUID of this node
	Version string
	Token   string // product token, "keyway/0.1.0"
}

// Recorder is told of each finished request by the prometheus plugin; the
// telemetry package implements it.
type Recorder interface {
	ObservePlugin(c *Context, o Observe)
}

// Observe says which families the prometheus plugin was configured to fill.
type Observe struct {
	PerConsumer, StatusCode, Latency, Bandwidth, UpstreamHealth bool
}

// Instance is a compiled plugin: the functions of the phases it takes part in,
// nil for the others. They run on the goroutine of the request and must not keep
// the Context.
type Instance struct {
	// Rewrite runs before routing; only global plugins have it run.
	Rewrite func(c *Context)
	// Access runs after routing. A Reply ends the request there: later Access
	// functions and the upstream are skipped, Header and Log of all still run.
	Access func(c *Context) *Reply
	// Header runs when the response head is complete and before it is sent. It
	// may change status and fields and may wrap or replace Response.Body.
	Header func(c *Context)
	// Log runs after the last byte, in order, on a response that cannot change.
	Log func(c *Context)
}

// Reply is an answer made here. Body goes to the client, Err to the log.
type Reply struct {
	Status int
	// Message is rendered as {"message": ...} in the form the client accepts; Body, if
	// not nil, is sent as it is with ContentType instead.
	Message     string
	Body        []byte
	ContentType string
	Fields      []exchange.Field
	Err         error
	// GRPC is the status that clients of gRPC are told, 0 for the one that goes with Status.
	GRPC int
}

// Context is one request as plugins see it.
type Context struct {
	X       *exchange.Exchange
	Route   *spec.Route   // nil when none matched
	Service *spec.Service // nil for a route without one
	// Captures are the groups of the route's regex path.
	Captures []exchange.Capture

	// Directory is the consumers and credentials of the request's snapshot.
	Directory *Directory

	// Consumer and Credential are set by authentication (Authenticate), nil before.
	Consumer   *spec.Consumer
	Credential *Identity
	Anonymous  bool // the consumer is the plugin's anonymous one

	// ClientIP is the real address of the client, behind trusted proxies too.
	ClientIP netip.Addr
	// ForwardedPort etc. follow the trusted_ips rules.
	ForwardedProto, ForwardedHost string
	ForwardedPort                 int

	// ResponseFields are set on the response, whoever makes it, before Header runs.
	ResponseFields exchange.Fields

	// UpstreamURI is the path to be sent, "" until routing has made it; a plugin may
	// replace it (request-transformer's replace.uri). The query that is sent is the
	// request's: see SetQuery.
	UpstreamURI string
	// StrippedURI is the path without what the route strips, where UpstreamURI has it:
	// no route strips the path of a gRPC service, unless a plugin says so. "" elsewhere.
	StrippedURI string
	// UpstreamHost is the Host to be sent upstream when a plugin says so, "" for
	// what the route, the service and the upstream say.
	UpstreamHost string

	Ctx context.Context //nolint:containedctx // Context is the request, it does not outlive it
	Now time.Time       // begin of the request

	// LocalReply is what ended the request in Access, nil when the upstream did.
	LocalReply *Reply

	slots  []any
	ran    *walk   // what Access ran, nil when it did not
	picked []*unit // the units of ran where they depend on the consumer, in Order, nil for none
	body   bodyCache
}

// Reset makes c ready for another request and keeps its memory.
func (c *Context) Reset() {
	c.ResponseFields.Reset()
	clear(c.slots)
	clear(c.picked)
	c.slots, c.picked = c.slots[:0], c.picked[:0]
	// One by one: a Context is large, and a copy of it costs more than most plugins.
	c.X, c.Route, c.Service, c.Captures, c.Directory = nil, nil, nil, nil, nil
	c.Consumer, c.Credential, c.Anonymous = nil, nil, false
	c.ClientIP, c.ForwardedProto, c.ForwardedHost, c.ForwardedPort = netip.Addr{}, "", "", 0
	c.UpstreamURI, c.StrippedURI, c.UpstreamHost = "", "", ""
	c.Ctx, c.Now, c.LocalReply = nil, time.Time{}, nil
	c.ran, c.body = nil, bodyCache{}
}

// Identity is the credential that authenticated a request.
type Identity struct {
	Plugin  string // "key-auth"
	ID      string // the credential's id
	Version int    // of the secret value, for the access log
}
