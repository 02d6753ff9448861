// Package watch tells sources when folders change. It only ever says "look
// again": kernels drop events, network file systems send none, and a folder that
// is replaced takes its watch along. So whoever listens also looks from time to
// time by itself, as the broker does.
package watch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	quiet    = 15 * time.Millisecond  // a burst of events is one hint, after this long without another
	quietMax = 250 * time.Millisecond // a burst that does not end is hinted this often
	rewatch  = 2 * time.Second        // how often folders that could not be watched are tried again
)

// Folders hints at changes in a growing list of folders. A folder is not watched
// with those below it, and need not exist yet.
type Folders struct {
	changed chan struct{}
	added   chan struct{}

	mu   sync.Mutex // guards the group below
	dirs map[string]bool
}

// New makes a Folders; Run works.
func New(dirs ...string) *Folders {
	f := &Folders{changed: make(chan struct{}, 1), added: make(chan struct{}, 1), dirs: make(map[string]bool)}
	for _, d := range dirs {
		f.dirs[d] = true
	}
	return f
}

// Add watches one more folder. It does not wait.
func (f *Folders) Add(dir string) {
	f.mu.Lock()
	known := f.dirs[dir]
	f.dirs[dir] = true
	f.mu.Unlock()
	if !known {
		signal(f.added)
	}
}

// Changed hints that something in a folder may differ.
func (f *Folders) Changed() <-chan struct{} { return f.changed }

// Run watches until ctx ends. It reacts to these, one at a time: an event of the
// kernel; the end of a burst of events; a folder was added; time to try folders
// again that could not be watched; ctx ended.
func (f *Folders) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching folders: %w", err)
	}
	defer w.Close()
	tick := time.NewTicker(rewatch)
	defer tick.Stop()
	var burst time.Time
	var end <-chan time.Time
	f.watch(w)
	signal(f.changed) // whatever happened before the watch began
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return fmt.Errorf("watching folders: %w", fsnotify.ErrClosed)
			}
			now := time.Now()
			if end == nil {
				burst = now
			}
			end = time.After(max(0, min(quiet, quietMax-now.Sub(burst))))
		case <-w.Errors:
			signal(f.changed) // events were lost
		case <-end:
			end = nil
			f.watch(w) // a folder may have been replaced
			signal(f.changed)
		case <-f.added:
			f.watch(w)
		case <-tick.C:
			if f.watch(w) {
				signal(f.changed)
			}
		}
	}
}

// watch makes the kernel watch every folder that is there, and says whether one is new.
func (f *Folders) watch(w *fsnotify.Watcher) (fresh bool) {
	f.mu.Lock()
	dirs := slices.Sorted(maps.Keys(f.dirs))
	f.mu.Unlock()
	have := w.WatchList()
	for _, d := range dirs {
		if slices.Contains(have, d) {
			continue
		}
		if w.Add(d) == nil {
			fresh = true
		}
	}
	return fresh
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
