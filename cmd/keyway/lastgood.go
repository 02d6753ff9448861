package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/lastgood"
	"github.com/keyway-edge/keyway/edge/telemetry"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// loadWait is how long a start waits for the key of the last known good state,
// which a service may have to unwrap.
const loadWait = 3 * time.Second

// lastGood is the node's last known good state: kept while it runs, used at a start
// at which documents are bad or sources away.
type lastGood struct {
	*lastgood.Store
	state   *lastgood.State // what the file held, nil for nothing usable; let go after the start
	ownKey  string          // the key's file if the node made it itself
	refused string          // why the file was not used
	started *spec.Document  // what was read from the file in place of bad documents
	written time.Time       // when that was written
}

// openLastGood reads the last known good state, before anything that needs it.
func (n *node) openLastGood(ctx context.Context) {
	s := n.settings
	if !s.LastKnownGood {
		return
	}
	dir := s.LastGoodDir
	if dir == "" {
		dir = filepath.Join(s.DataDir, "last-good")
	}
	n.lastGood = &lastGood{}
	key := lastgood.FileKey{Path: s.LastGoodKey}
	if key.Path == "" {
		key = lastgood.FileKey{Path: filepath.Join(s.DataDir, "last-good.key"), Make: true}
		n.lastGood.ownKey = key.Path
		n.log.Warn("the last known good state is sealed with a key that lies beside it: whoever reads the data folder can open it; set lastgood_key to a file on another volume", slog.String("key", key.Path))
	}
	var keys lastgood.Keys = key
	if t := n.transitKey(); t != nil {
		keys = t
	}
	n.lastGood.Store = lastgood.New(lastgood.Config{
		Dir: dir, Mark: filepath.Join(s.DataDir, "last-good.mark"), Node: n.config.NodeID, Keys: keys, Log: n.log, Serving: n.serving, Pause: n.newPacer().pause,
	})
	if n.succession.from != nil {
		n.lastGood.Hold()
	}
	wait, cancel := context.WithTimeout(ctx, loadWait)
	defer cancel()
	st, err := n.lastGood.Load(wait)
	switch {
	case errors.Is(err, lastgood.ErrNone):
	case err != nil:
		n.lastGood.refused = err.Error()
		n.event(secrets.Event{Kind: "security", Subject: "last known good state", Result: "refused", Reason: err.Error(), Actor: "node"})
	default:
		n.lastGood.state = st
	}
}

// kept are the values of credentials that were good last.
func (n *node) kept() []secrets.Kept {
	if n.lastGood == nil || n.lastGood.state == nil {
		return nil
	}
	return n.lastGood.state.Kept
}

// document reads what was served last.
func (l *lastGood) document() (*spec.Document, error) {
	doc, faults := spec.Load([]spec.Source{{Name: "last-known-good", Data: l.state.Document}}, schemas())
	if len(faults) > 0 {
		return nil, fmt.Errorf("the last known good document of %s cannot be served by this version:\n%w", l.state.Written.Format(time.RFC3339), faults)
	}
	return doc, nil
}

// fallBack starts from the last known good document in place of bad ones.
func (n *node) fallBack(problems spec.Problems) error {
	bad := fmt.Errorf("the documents cannot be served:\n%w", problems)
	if n.lastGood == nil || n.lastGood.state == nil {
		return bad
	}
	st := n.lastGood.state
	doc, err := n.lastGood.document()
	if err != nil {
		return fmt.Errorf("%w\nand %w", bad, err)
	}
	if n.cluster != nil {
		n.cluster.fallBack(doc) // it holds what came from the cluster too
	} else {
		n.documents.Fallback(doc)
	}
	n.lastGood.started, n.lastGood.written = doc, st.Written
	n.log.Error("STARTING FROM THE LAST KNOWN GOOD DOCUMENT: the documents are bad, mend them", slog.Time("written", st.Written), slog.Int("problems", len(problems)))
	n.event(secrets.Event{Kind: "document", Subject: "documents", Source: "last known good", Result: "stale", Reason: problems[0].Error(), Actor: "node"})
	return nil
}

// serving collects what is to be kept.
func (n *node) serving(ctx context.Context) (lastgood.Serving, error) {
	s := n.publisher.Current()
	if s == nil {
		return lastgood.Serving{}, nil
	}
	kept, err := n.broker.Export(ctx)
	return lastgood.Serving{Document: s.Document, Kept: kept}, err
}

// published tells the store of each publication, after who records it.
type published struct {
	edge.Recorder
	store *lastgood.Store
}

// Built records, then hints.
func (p published) Built(s *edge.Snapshot, r *edge.Report) {
	p.Recorder.Built(s, r)
	p.store.Hint()
}

// recorder is who keeps what a build changed.
func (n *node) recorder() edge.Recorder {
	if n.lastGood == nil {
		return n.telemetry
	}
	return published{n.telemetry, n.lastGood.Store}
}

// Remarks lists what an operator should know of a node that serves all the same.
func (n *node) Remarks() []string {
	list := append(n.kubeRemarks(), n.declared.Remarks()...)
	if n.lastGood == nil {
		return list
	}
	doc, problems := n.documents.Current()
	if n.lastGood.started != nil && doc == n.lastGood.started && len(problems) > 0 {
		list = append(list, "serving the last known good document of "+n.lastGood.written.Format(time.RFC3339)+": the documents are bad")
	}
	if n.lastGood.refused != "" {
		list = append(list, n.lastGood.refused)
	}
	if f := n.lastGood.Facts(); f.Failed != "" {
		list = append(list, "the last known good state cannot be written since "+f.Since.Format(time.RFC3339)+": "+f.Failed)
	}
	if n.lastGood.ownKey != "" {
		list = append(list, "the last known good state is sealed with a key that lies beside it, "+n.lastGood.ownKey+"; set lastgood_key to a file on another volume")
	}
	return list
}

// lastGoodFacts is what metrics tell.
func (n *node) lastGoodFacts() telemetry.LastGood {
	if n.lastGood == nil {
		return telemetry.LastGood{}
	}
	f := n.lastGood.Facts()
	return telemetry.LastGood{On: true, Written: f.Written, Bytes: f.Size, Failures: f.Failures, Stale: f.Failed != ""}
}
