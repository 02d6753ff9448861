package policy

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"

	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// protocols is a set of request protocols, one bit each.
type protocols uint8

const (
	protoHTTP protocols = 1 << iota
	protoHTTPS
	protoGRPC
	protoGRPCS
	protoTCP
	protoTLS
	protoPassthrough
	protoUDP
	// protoAll is what plugins are for that do not say: requests, not streams.
	protoAll = protoHTTP | protoHTTPS | protoGRPC | protoGRPCS
)

func protocolSet(names []string) protocols {
	if len(names) == 0 {
		return protoAll
	}
	var set protocols
	for _, n := range names {
		switch n {
		case "http":
			set |= protoHTTP
		case "https":
			set |= protoHTTPS
		case "grpc":
			set |= protoGRPC
		case "grpcs":
			set |= protoGRPCS
		case "tcp":
			set |= protoTCP
		case "tls":
			set |= protoTLS
		case "tls_passthrough":
			set |= protoPassthrough
		case "udp":
			set |= protoUDP
		}
	}
	return set
}

// unit is one plugin entity compiled: what chains are made of and share.
// Immutable once made.
type unit struct {
	plugin   *spec.Plugin
	protocol protocols
	names    bool // its kind authenticates
	instance Instance
	problem  *spec.Problem // why it did not compile, nil if it did
	// used is every text that Compile asked the value of, with the value's
	// fingerprint: the inputs that decide whether the unit may be kept.
	used []usedSecret
}

type usedSecret struct{ text, print string }

// compileUnit never fails: a plugin that cannot be compiled becomes a unit that
// answers 503, because a route must not be served without it.
func compileUnit(kind *Kind, env *Env, p *spec.Plugin) *unit {
	u := &unit{plugin: p, protocol: protocolSet(p.Protocols), names: kind != nil && kind.Authenticates}
	reason := spec.ReasonCompile
	own := *env
	own.Directory = nil
	own.Secret = func(text string) (secrets.Value, error) {
		v, err := env.Secret(text)
		if err != nil {
			reason = spec.ReasonCredential
			return v, err
		}
		u.used = append(u.used, usedSecret{text, v.Fingerprint()})
		return v, nil
	}
	instance, err := compileSafely(kind, &own, p)
	if err != nil {
		u.problem = &spec.Problem{
			Pos: p.Pos, Entity: "plugins", ID: p.ID, Name: p.Name, Field: "config", Reason: reason,
			Message: err.Error() + "; what it serves answers 503 until this is put right",
		}
		instance = Instance{Access: u.refuse}
	}
	u.instance = instance
	return u
}

var errNoKind = errors.New("expected a plugin that this node has: it is not enabled here")

func compileSafely(kind *Kind, env *Env, p *spec.Plugin) (i Instance, err error) {
	if kind == nil {
		return i, errNoKind
	}
	// Why: one plugin's mistake about one config must not take the publishing of
	// everything else down with it.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("compiling panicked: %v", r)
		}
	}()
	return kind.Compile(env, p)
}

func (u *unit) refuse(*Context) *Reply {
	return &Reply{Status: http.StatusServiceUnavailable, Message: StatusText(http.StatusServiceUnavailable), Err: u.problem}
}

// keeps says whether u is what compiling p anew would give.
func (u *unit) keeps(env *Env, p *spec.Plugin) bool {
	if u.problem != nil || !samePlugin(u.plugin, p) {
		return false
	}
	for _, x := range u.used {
		v, err := env.Secret(x.text)
		if err != nil || v.Fingerprint() != x.print {
			return false
		}
	}
	return true
}

// samePlugin compares what Compile may look at: not tags, times or positions.
func samePlugin(a, b *spec.Plugin) bool {
	return a == b || a.ID == b.ID && a.Name == b.Name && a.InstanceName == b.InstanceName &&
		a.Route == b.Route && a.Service == b.Service && a.Consumer == b.Consumer && a.ConsumerGroup == b.ConsumerGroup &&
		slices.Equal(a.Protocols, b.Protocols) && reflect.DeepEqual(a.Ordering, b.Ordering) && reflect.DeepEqual(a.Config, b.Config)
}
