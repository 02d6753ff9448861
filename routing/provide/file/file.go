// Package file provides documents from files and folders.
//
// A path is a file or a folder (its .yaml, .yml and .json files, in order of
// name, not deeper). All files make one document. The provider looks again when
// the watcher says so, every few seconds because watchers miss things (network
// file systems, a folder replaced as a whole), and when it is told to. What does
// not load as a whole changes nothing: the last good document stays, and the
// problems are reported once.
package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/keyway-edge/keyway/routing/spec"
)

const (
	maxFile  = 256 << 20       // bytes of one file
	interval = 5 * time.Second // of the slow poll
	settle   = 50 * time.Millisecond
)

// Provider watches paths. Make one with New.
type Provider struct {
	// Judge answers what is wrong with a document that is right by itself, nil for
	// nothing. Set before the first Load.
	Judge func(*spec.Document) spec.Problems

	// Pause is called between parts of reading a document, so that it can let others go
	// first; nil for nothing. Set before the first Load.
	Pause func()

	paths  []string
	loader spec.Loader   // under loading
	extra  []spec.Source // documents that come with the node
	report func(spec.Problems)

	again   chan struct{} // capacity 1: look now
	changed chan struct{} // capacity 1: Current may answer something new

	loading  sync.Mutex // held for a whole Load: a slow one must not put back what a later one replaced
	mu       sync.Mutex // guards the group below
	document *spec.Document
	problems spec.Problems
	seen     [sha256.Size]byte // of everything read last
}

// New makes a Provider of the files and folders in paths and of the sources in
// extra. report is called, from Run, once for each load that failed, with every problem.
func New(paths []string, extra []spec.Source, schemas spec.Schemas, report func(spec.Problems)) *Provider {
	return &Provider{
		paths: paths, extra: extra, loader: spec.Loader{Schemas: schemas}, report: report,
		again: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}
}

// Current answers the latest good document, nil before the first, and the
// problems of a later one that was not good.
func (p *Provider) Current() (*spec.Document, spec.Problems) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.document, p.problems
}

// Fallback makes doc current if no Load was good yet. The problems of what could
// not be loaded stay, and it is taken as ever once it is good.
func (p *Provider) Fallback(doc *spec.Document) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.document == nil {
		p.document = doc
	}
}

// Changed hints that Current may answer something new.
func (p *Provider) Changed() <-chan struct{} { return p.changed }

// Refresh makes Run look again, whether or not anything seems to have changed.
func (p *Provider) Refresh() {
	p.forget()
	hint(p.again)
}

func (p *Provider) forget() {
	p.mu.Lock()
	p.seen = [sha256.Size]byte{}
	p.mu.Unlock()
}

func hint(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Load reads and loads once. It answers the problems, if any.
func (p *Provider) Load() spec.Problems {
	p.loading.Lock()
	defer p.loading.Unlock()
	sources, err := Read(p.paths)
	if err != nil {
		// What was read last is known no more: the same files, back again, are news.
		p.forget()
		return p.settleProblems(spec.Problems{{Field: "documents", Reason: spec.ReasonSyntax, Message: err.Error()}})
	}
	sources = append(slices.Clone(p.extra), sources...)
	sum := sha256.New()
	for _, s := range sources {
		fmt.Fprintf(sum, "%q %d\n", s.Name, len(s.Data))
		sum.Write(s.Data)
	}
	var now [sha256.Size]byte
	sum.Sum(now[:0])
	p.mu.Lock()
	same := p.seen == now
	p.seen = now
	known := p.problems
	p.mu.Unlock()
	if same {
		return known
	}
	p.loader.Pause = p.Pause
	document, problems := p.loader.Load(sources)
	if len(problems) == 0 && p.Judge != nil {
		problems = p.Judge(document)
	}
	if len(problems) > 0 {
		return p.settleProblems(problems)
	}
	p.mu.Lock()
	p.document, p.problems = document, nil
	p.mu.Unlock()
	hint(p.changed)
	return nil
}

// settleProblems keeps the last good document and reports, unless the same was reported before.
func (p *Provider) settleProblems(problems spec.Problems) spec.Problems {
	p.mu.Lock()
	again := p.problems != nil && p.problems.Error() == problems.Error()
	p.problems = problems
	p.mu.Unlock()
	if !again {
		p.report(problems)
		hint(p.changed)
	}
	return problems
}

// Run looks again until ctx ends, at: a hint of the watcher, a tick of the slow
// poll, a call of Refresh.
func (p *Provider) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	var events chan fsnotify.Event
	var failures chan error
	if err == nil {
		defer func() { _ = watcher.Close() }()
		events, failures = watcher.Events, watcher.Errors
		p.watch(watcher)
	}
	poll := time.NewTicker(interval)
	defer poll.Stop()
	var quiet <-chan time.Time // armed by an event: files are often written in several steps
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			if quiet == nil {
				quiet = time.After(settle)
			}
			continue
		case <-failures:
			continue // the poll is there for what the watcher loses
		case <-quiet:
			quiet = nil
		case <-poll.C:
			if watcher != nil {
				p.watch(watcher) // a folder that was replaced has lost its watch
			}
		case <-p.again:
		}
		p.Load()
	}
}

// watch watches the folder of each path: editors and kubelets replace files, and
// a watch on a file dies with it.
func (p *Provider) watch(w *fsnotify.Watcher) {
	for _, path := range p.paths {
		dir := path
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			dir = filepath.Dir(path)
		}
		_ = w.Add(dir) // twice is harmless; a missing folder is the poll's
	}
}

// Read reads every file that paths name. An error names the path and what was expected.
func Read(paths []string) ([]spec.Source, error) {
	var sources []spec.Source
	var failed []error
	for _, path := range paths {
		files, err := list(path)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		for _, f := range files {
			data, err := readFile(f)
			if err != nil {
				failed = append(failed, err)
				continue
			}
			sources = append(sources, spec.Source{Name: f, Data: data})
		}
	}
	return sources, errors.Join(failed...)
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("reading document: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("reading document %s: it has %d bytes; expected at most %d, split it", name, info.Size(), maxFile)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading document: %w", err)
	}
	return bytes.TrimPrefix(data, []byte("\ufeff")), nil
}

// list answers the files that a path stands for.
func list(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading document: %w; expected a file or a folder of .yaml, .yml or .json files", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("reading folder of documents: %w", err)
	}
	var files []string
	for _, e := range entries {
		if isDocument(e) {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	return files, nil
}

func isDocument(e fs.DirEntry) bool {
	if strings.HasPrefix(e.Name(), ".") || e.IsDir() {
		return false
	}
	switch filepath.Ext(e.Name()) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}
