// Package watch tells sources when folders change, and what may have changed in
// them. It only ever says "look again": kernels drop events, network file systems
// send none, and a folder that is replaced takes its watch along. So whoever
// listens also looks from time to time by itself, as the broker does.
package watch

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	quiet    = 15 * time.Millisecond  // a burst of events is one hint, after this long without another
	quietMax = 250 * time.Millisecond // a burst that does not end is hinted this often
	rewatch  = time.Second            // how often folders that could not be watched are tried again
)

// Folders hints at changes in a growing list of folders. A folder is not watched
// with those below it, and need not exist yet.
type Folders struct {
	changed chan struct{}

	mu      sync.Mutex // guards the group below; never held while the kernel is asked
	dirs    map[string]bool
	watcher *fsnotify.Watcher // of Run, nil without one
	paths   map[string]bool   // what changed since Touched was asked last
	all     bool              // and whether anything may have

	// Only Run's goroutine uses these: folders that the kernel watches under another
	// name, which events have then; and what events named since folders were watched.
	alias map[string]string
	moved map[string]bool
}

// New makes a Folders; Run works.
func New(dirs ...string) *Folders {
	f := &Folders{
		changed: make(chan struct{}, 1), dirs: make(map[string]bool), paths: make(map[string]bool),
		alias: make(map[string]string), moved: make(map[string]bool),
	}
	for _, d := range dirs {
		f.dirs[filepath.Clean(d)] = true
	}
	return f
}

// Add watches one more folder. While Run works the folder, if it is there, is
// watched when Add returns: what is read after that cannot change unseen.
func (f *Folders) Add(dir string) {
	dir = filepath.Clean(dir)
	f.mu.Lock()
	known := f.dirs[dir]
	f.dirs[dir] = true
	w := f.watcher
	f.mu.Unlock()
	if !known && w != nil {
		_ = w.Add(dir) // Run tries again
	}
}

// Changed hints that something in a folder may differ.
func (f *Folders) Changed() <-chan struct{} { return f.changed }

// Touched answers the paths that may differ since it was asked last, each in one of
// the folders, under the folder's name as it was added; or that any may.
func (f *Folders) Touched() (paths []string, all bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	paths, all = slices.Sorted(maps.Keys(f.paths)), f.all
	clear(f.paths)
	f.all = false
	return paths, all
}

// touch notes what changed, nothing for anything.
func (f *Folders) touch(paths ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = f.all || len(paths) == 0
	for _, p := range paths {
		f.paths[p] = true
	}
}

// Run watches until ctx ends. It reacts to these, one at a time: an event of the
// kernel; the end of a burst of events; time to try folders again that could not
// be watched; ctx ended.
func (f *Folders) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching folders: %w", err)
	}
	defer w.Close()
	f.use(w)
	defer f.use(nil)
	tick := time.NewTicker(rewatch)
	defer tick.Stop()
	var burst time.Time
	var end <-chan time.Time
	f.watch(w)
	f.touch() // whatever happened before the watch began
	signal(f.changed)
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Events:
			if !ok {
				return fmt.Errorf("watching folders: %w", fsnotify.ErrClosed)
			}
			f.event(e.Name)
			now := time.Now()
			if end == nil {
				burst = now
			}
			end = time.After(max(0, min(quiet, quietMax-now.Sub(burst))))
		case <-w.Errors: // events were lost
			f.touch()
			signal(f.changed)
		case <-end:
			end = nil
			f.watch(w) // a folder may have been replaced
			signal(f.changed)
		case <-tick.C:
			if f.watch(w) {
				signal(f.changed)
			}
		}
	}
}

func (f *Folders) use(w *fsnotify.Watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watcher = w
}

// event notes what an event names, under each name of its folder.
func (f *Folders) event(path string) {
	if path == "" { // an event that fsnotify has no more to say of
		return
	}
	paths := []string{path}
	for other, name := range f.alias {
		if within(path, name) {
			paths = append(paths, other+strings.TrimPrefix(path, name))
		}
	}
	f.touch(paths...)
	for _, p := range paths {
		f.moved[p] = true
	}
}

// within says whether path is dir or below it.
func within(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == filepath.Separator)
}

// watch makes the kernel watch every folder that is there. It notes those that are
// new, and says whether one is.
func (f *Folders) watch(w *fsnotify.Watcher) (fresh bool) {
	f.letGo(w)
	have := watched(w)
	f.mu.Lock()
	var missing []string
	for d := range f.dirs {
		if !have[d] {
			missing = append(missing, d)
		}
	}
	f.mu.Unlock()
	missing = slices.DeleteFunc(missing, func(d string) bool {
		name, ok := f.alias[d]
		return ok && have[name] && same(d, name) || w.Add(d) != nil
	})
	if len(missing) == 0 {
		return false
	}
	have = watched(w)
	for _, d := range missing {
		delete(f.alias, d)
		if !have[d] {
			f.findAlias(d, have)
		}
	}
	f.touch(missing...)
	return true
}

// watched are the folders that the kernel watches.
func watched(w *fsnotify.Watcher) map[string]bool {
	have := make(map[string]bool)
	for _, d := range w.WatchList() {
		have[d] = true
	}
	return have
}

// letGo ends the watch of folders whose names may lead elsewhere now, because a
// link on the way was replaced.
func (f *Folders) letGo(w *fsnotify.Watcher) {
	for d := range watched(w) {
		for up := d; up != filepath.Dir(up); up = filepath.Dir(up) {
			if f.moved[up] {
				_ = w.Remove(d) // it may be gone already
				break
			}
		}
	}
	clear(f.moved)
}

// findAlias looks for the name under which the kernel watches d.
func (f *Folders) findAlias(d string, have map[string]bool) {
	for name := range have {
		if same(d, name) {
			f.alias[d] = name
			return
		}
	}
}

// same says whether two names are of one folder.
func same(a, b string) bool {
	x, xerr := os.Stat(a)
	y, yerr := os.Stat(b)
	return xerr == nil && yerr == nil && os.SameFile(x, y)
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
