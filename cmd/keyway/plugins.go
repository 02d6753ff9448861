package main

import (
	"sync"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/acl"
	"github.com/keyway-edge/keyway/policy/compression"
	"github.com/keyway-edge/keyway/policy/correlationid"
	"github.com/keyway-edge/keyway/policy/cors"
	"github.com/keyway-edge/keyway/policy/grpcweb"
	"github.com/keyway-edge/keyway/policy/iprestriction"
	"github.com/keyway-edge/keyway/policy/keyauth"
	"github.com/keyway-edge/keyway/policy/prometheus"
	"github.com/keyway-edge/keyway/policy/ratelimiting"
	"github.com/keyway-edge/keyway/policy/requestsizelimiting"
	"github.com/keyway-edge/keyway/policy/requesttermination"
	"github.com/keyway-edge/keyway/policy/requesttransformer"
	"github.com/keyway-edge/keyway/policy/responsetransformer"
	"github.com/keyway-edge/keyway/policy/routefilters"
	"github.com/keyway-edge/keyway/routing/spec"
)

// plugins lists every plugin of this build. Nothing registers itself.
func plugins() []policy.Kind {
	return []policy.Kind{
		acl.Kind(),
		compression.Kind(),
		correlationid.Kind(),
		cors.Kind(),
		grpcweb.Kind(),
		iprestriction.Kind(),
		keyauth.Kind(),
		prometheus.Kind(),
		ratelimiting.Kind(),
		requestsizelimiting.Kind(),
		requesttermination.Kind(),
		requesttransformer.Kind(),
		responsetransformer.Kind(),
		routefilters.Kind(),
	}
}

// schemas are the config schemas of the plugins, for decoding documents.
func schemas() spec.Schemas {
	all := sourceSchemas()
	for _, k := range plugins() {
		all[k.Schema.Name] = k.Schema
	}
	return all
}

// sharedState makes the store of what plugins keep across snapshots.
func sharedState() func(key string, build func() any) any {
	var mu sync.Mutex
	state := map[string]any{}
	return func(key string, build func() any) any {
		mu.Lock()
		defer mu.Unlock()
		v, ok := state[key]
		if !ok {
			v = build()
			state[key] = v
		}
		return v
	}
}
