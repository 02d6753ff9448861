package secrets_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/keyway-edge/keyway/secrets"
)

// instant answers every request at once.
type instant struct{}

func (instant) Fetch(context.Context, secrets.Request) (secrets.Lease, error) {
	return secrets.Lease{Value: secrets.NewValue([]byte("value"))}, nil
}

// BenchmarkResolve is a start with 10,000 secrets, each a resource of its own.
func BenchmarkResolve(b *testing.B) {
	var refs []string
	for i := range 10000 {
		refs = append(refs, fmt.Sprintf("{vault://fake/key-%d}", i))
	}
	p := plan(refs...)
	for b.Loop() {
		broker := secrets.NewBroker(config(instant{}))
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error, 1)
		go func() { done <- broker.Run(ctx) }()
		if set := broker.Resolve(ctx, p); set.Len() != len(refs) {
			b.Fatalf("%d of %d", set.Len(), len(refs))
		}
		cancel()
		<-done
	}
}

// BenchmarkGet is what a build does for each reference.
func BenchmarkGet(b *testing.B) {
	p := plan("{vault://fake/key}")
	set := secrets.NewSet(1, &secrets.Credential{Ref: p.Refs[0], Value: secrets.NewValue([]byte("x"))})
	b.ReportAllocs()
	for b.Loop() {
		if set.Get(p.Refs[0]) == nil {
			b.Fatal("missing")
		}
	}
}
