package certmanager

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/keyway-edge/keyway/secrets/kube/cluster"
)

// ErrUnderWay says that cert-manager is issuing a Certificate already.
var ErrUnderWay = errors.New("cert-manager is issuing it already")

const (
	conflicts = 5                // tries of a change that somebody else's gets ahead of
	patient   = 10 * time.Second // with the API server
)

// Renew asks cert-manager to issue a Certificate anew, as its own command does: by the
// condition Issuing in its status.
func (w *Watcher) Renew(ctx context.Context, c *Certificate) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	for range conflicts {
		err := w.mark(ctx, c)
		if !cluster.Conflict(err) {
			return err
		}
	}
	return fmt.Errorf("asking cert-manager to renew %s: it is changed all the time; try again", c)
}

// mark writes the condition into the status that was just read.
func (w *Watcher) mark(ctx context.Context, c *Certificate) error {
	at := path(c.Namespace) + "/" + c.Name
	var o struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
			Generation      int64  `json:"generation"`
		} `json:"metadata"`
		Status struct {
			Conditions      []map[string]any `json:"conditions"`
			LastFailureTime time.Time        `json:"lastFailureTime"`
		} `json:"status"`
	}
	if err := w.api.Do(ctx, http.MethodGet, at, nil, &o); err != nil {
		return refusal(err, c, "get", "certificates")
	}
	list := make([]map[string]any, 0, len(o.Status.Conditions)+1)
	for _, x := range o.Status.Conditions {
		if x["type"] != "Issuing" {
			list = append(list, x)
		} else if x["status"] == "True" {
			return fmt.Errorf("%s: %w; `keyway certs show` tells how that goes", c, ErrUnderWay)
		}
	}
	// A request that failed is made again only where the condition is of a later second
	// than its failure, by cert-manager's clock; else that failure counts once more.
	since := time.Now()
	if later := o.Status.LastFailureTime.Add(time.Second); later.After(since) {
		since = later
	}
	list = append(list, map[string]any{
		"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "Certificate re-issuance manually triggered",
		"lastTransitionTime": since.UTC().Format(time.RFC3339), "observedGeneration": o.Metadata.Generation,
	})
	// The version makes it fail where cert-manager wrote meanwhile: a list is replaced whole.
	change := map[string]any{"metadata": map[string]any{"resourceVersion": o.Metadata.ResourceVersion}, "status": map[string]any{"conditions": list}}
	if err := w.api.Do(ctx, http.MethodPatch, at+"/status", change, nil); err != nil {
		return refusal(err, c, "patch", "certificates/status")
	}
	return nil
}

// refusal says what to do about an answer that was not good.
func refusal(err error, c *Certificate, verb, resource string) error {
	switch {
	case cluster.Denied(err):
		return fmt.Errorf("asking cert-manager to renew %s: the account may not %s %s of %s in the namespace %s; give it that right (docs/kubernetes.md): %w", c, verb, resource, group, c.Namespace, err)
	case cluster.Absent(err):
		return fmt.Errorf("asking cert-manager to renew %s: it is gone: %w", c, err)
	}
	return fmt.Errorf("asking cert-manager to renew %s: %w", c, err)
}
