package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/keyway-edge/keyway/secrets"
)

const (
	tries = 5        // of reading something that changes meanwhile
	link  = "..data" // the link that kubelet swaps
)

// errMoved says that what was read changed meanwhile.
var errMoved = errors.New("it changes while it is read")

// read answers a file or a folder below root, and which of the two it is.
func read(root, name string, keep bool) (lease secrets.Lease, folder bool, err error) {
	for try := range tries {
		lease, folder, err = readOnce(root, name, keep)
		// A link is followed step by step; what it led to may be gone at the last
		// step because the link was swapped. So "not there" is believed the second time.
		if !errors.Is(err, errMoved) && (try > 0 || !errors.Is(err, fs.ErrNotExist)) {
			break
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("reading file %s: %w below %s", name, secrets.ErrNotFound, root)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("reading file %s below %s: %w; make it readable for the user that the node runs as", name, root, secrets.ErrDenied)
	case err != nil:
		err = fmt.Errorf("reading file %s below %s: %w", name, root, err)
	}
	return lease, folder, err
}

// readOnce opens the root anew, so that a root that was replaced is followed.
func readOnce(rootPath, name string, keep bool) (secrets.Lease, bool, error) {
	root, err := os.OpenRoot(rootPath)
	if err != nil {
		return secrets.Lease{}, false, err
	}
	defer root.Close()
	info, err := root.Stat(name)
	if err != nil {
		return secrets.Lease{}, false, err
	}
	if info.IsDir() {
		lease, err := readFolder(root, name, keep)
		return lease, true, err
	}
	content, info, err := readFile(root, name)
	if err != nil {
		return secrets.Lease{}, false, err
	}
	return secrets.Lease{Value: secrets.NewValue(trimmed(content, keep)), Modified: info.ModTime()}, false, nil
}

// readFolder answers all files of a folder as one JSON object.
func readFolder(root *os.Root, name string, keep bool) (secrets.Lease, error) {
	mount, at := root, path.Join(name, link)
	target, err := mount.Readlink(at)
	if err == nil {
		// The generation is opened once and read through that handle: a swap of the
		// link meanwhile leads others elsewhere, not this read.
		generation, err := mount.OpenRoot(at)
		if err != nil {
			return secrets.Lease{}, moved(err, target)
		}
		defer generation.Close()
		root, name = generation, "."
	}
	before, err := listing(root, name)
	if err != nil {
		return secrets.Lease{}, moved(err, target)
	}
	lease := secrets.Lease{Version: target}
	object := make(map[string]string)
	size := 0
	for _, info := range before {
		content, now, err := readFile(root, path.Join(name, info.Name()))
		if err != nil {
			return secrets.Lease{}, moved(err, target)
		}
		if size += len(content); size > Limit {
			return secrets.Lease{}, fmt.Errorf("the folder holds more than %d bytes; expected a folder of secrets alone", Limit)
		}
		if utf8.Valid(content) {
			object[info.Name()] = string(trimmed(content, keep))
		}
		if now.ModTime().After(lease.Modified) {
			lease.Modified = now.ModTime()
		}
	}
	after, err := listing(root, name)
	if err != nil || !same(before, after) {
		return secrets.Lease{}, errMoved
	}
	// A generation that was replaced meanwhile may have been half removed already
	// when it was listed.
	if now, _ := mount.Readlink(at); now != target {
		return secrets.Lease{}, errMoved
	}
	b, err := json.Marshal(object)
	if err != nil {
		return secrets.Lease{}, errors.New("encoding the folder")
	}
	lease.Value = secrets.NewValue(b)
	return lease, nil
}

// moved turns "not there" into errMoved where the reason may be that a generation
// was swapped and removed under the reader.
func moved(err error, target string) error {
	if target != "" && errors.Is(err, fs.ErrNotExist) {
		return errMoved
	}
	return err
}

// listing answers the regular files of a folder, links followed, by name in order.
// Names that begin with ".." are bookkeeping of the mount. Links to nothing are left out.
func listing(root *os.Root, folder string) ([]named, error) {
	entries, err := fs.ReadDir(root.FS(), folder)
	if err != nil {
		return nil, err
	}
	var list []named
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		info, err := root.Stat(path.Join(folder, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() {
			list = append(list, named{info, e.Name()})
		}
	}
	return list, nil
}

// named is a file's facts under the name of the link that led to it.
type named struct {
	fs.FileInfo
	name string
}

// Name is the name in its folder.
func (n named) Name() string { return n.name }

func same(a, b []named) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if x.name != y.name || !os.SameFile(x.FileInfo, y.FileInfo) || !unchanged(x, y) {
			return false
		}
	}
	return true
}

func unchanged(a, b fs.FileInfo) bool { return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) }

// readFile reads one regular file. It is opened without waiting, so that a pipe
// put in a secret's place cannot hold the reader.
func readFile(root *os.Root, name string) ([]byte, fs.FileInfo, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("it is %s; expected a regular file", info.Mode().Type())
	}
	content, err := io.ReadAll(io.LimitReader(f, Limit+1))
	if err != nil {
		return nil, nil, err
	}
	if len(content) > Limit {
		return nil, nil, fmt.Errorf("it is larger than %d bytes; expected a secret", Limit)
	}
	after, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	// A file written this very moment may look unchanged between two parts of a
	// write; its writer's next event brings another look.
	if !unchanged(info, after) || after.Size() != int64(len(content)) {
		return nil, nil, errMoved
	}
	return content, after, nil
}

func trimmed(content []byte, keep bool) []byte {
	if keep {
		return content
	}
	if cut, ok := bytes.CutSuffix(content, []byte("\n")); ok {
		return bytes.TrimSuffix(cut, []byte("\r"))
	}
	return content
}
