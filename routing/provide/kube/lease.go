package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keyway-edge/keyway/secrets/kube/cluster"
)

const (
	leaseLasts = 15 * time.Second // without a renewal, until another may take it
	leaseRenew = 5 * time.Second
)

// lease is a Lease of coordination.k8s.io/v1.
type lease struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name            string `json:"name"`
		Namespace       string `json:"namespace"`
		ResourceVersion string `json:"resourceVersion,omitempty"`
	} `json:"metadata"`
	Spec struct {
		Holder      string `json:"holderIdentity"`
		Lasts       int    `json:"leaseDurationSeconds"`
		Acquired    string `json:"acquireTime,omitempty"`
		Renewed     string `json:"renewTime,omitempty"`
		Transitions int    `json:"leaseTransitions"`
	} `json:"spec"`
}

// elector says whether this replica is the one that writes. Clocks of replicas are not
// compared: a lease is over when it was seen not to change for as long as it lasts.
type elector struct {
	api  *cluster.API
	path string // of the leases of the namespace
	name string
	own  string // identity
	log  *slog.Logger

	// owned by the writer
	seen    string // version of another's lease
	since   time.Time
	leads   bool
	renewed time.Time
}

// microTime is the form of times in a Lease.
const microTime = "2006-01-02T15:04:05.000000Z07:00"

// try takes or renews the lease and answers whether this replica leads.
func (e *elector) try(ctx context.Context, now time.Time) bool {
	held, err := e.attempt(ctx, now)
	switch {
	case err == nil && held:
		e.renewed = now
		if !e.leads {
			e.log.Info("this replica writes status and events", slog.String("lease", e.name))
		}
		e.leads = true
	case err == nil, now.Sub(e.renewed) > leaseLasts-leaseRenew: // before another may begin
		if e.leads {
			e.log.Info("another replica writes status and events", slog.String("lease", e.name), slog.Any("error", err))
		}
		e.leads = false
	}
	return e.leads
}

func (e *elector) attempt(ctx context.Context, now time.Time) (held bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaseRenew)
	defer cancel()
	var l lease
	err = e.api.Do(ctx, http.MethodGet, e.path+"/"+e.name, nil, &l)
	switch {
	case cluster.Absent(err):
		l = lease{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
		l.Metadata.Name = e.name
	case err != nil:
		return false, err
	case l.Spec.Holder != e.own && l.Spec.Holder != "":
		if e.seen != l.Metadata.ResourceVersion {
			e.seen, e.since = l.Metadata.ResourceVersion, now
		}
		if now.Sub(e.since) < leaseLasts {
			return false, nil
		}
	}
	if l.Spec.Holder != e.own {
		l.Spec.Acquired = now.UTC().Format(microTime)
		l.Spec.Transitions++
	}
	l.Spec.Holder, l.Spec.Lasts, l.Spec.Renewed = e.own, int(leaseLasts.Seconds()), now.UTC().Format(microTime)
	method, path := http.MethodPut, e.path+"/"+e.name
	if l.Metadata.ResourceVersion == "" {
		method, path = http.MethodPost, e.path
	}
	if err = e.api.Do(ctx, method, path, &l, nil); apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return false, nil // another was faster
	}
	return err == nil, err
}

// leave gives the lease back, so that another need not wait for its end.
func (e *elector) leave(ctx context.Context) error {
	if !e.leads {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	var l lease
	if err := e.api.Do(ctx, http.MethodGet, e.path+"/"+e.name, nil, &l); err != nil {
		return fmt.Errorf("reading the lease: %w", err)
	}
	if l.Spec.Holder != e.own {
		return errors.New("the lease is another's")
	}
	l.Spec.Holder = ""
	return e.api.Do(ctx, http.MethodPut, e.path+"/"+e.name, &l, nil)
}
