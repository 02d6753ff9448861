package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keyway-edge/keyway/"

// listed is what `go list` says of one package.
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Standard   bool
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// packages lists the module's own packages.
func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,Standard", "./...")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p listed
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 20 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

// directions says which of the module's packages (or, without "own:", which
// libraries) a tree may import. A tree not named falls to its parent. "std" is
// the standard library, which everybody may use.
var directions = []struct {
	tree  string
	may   []string
	which string // why
}{
	{"secrets/secrettest", []string{"secrets"}, "a fake of the contract needs the contract"},
	{"secrets/watch", []string{"lib:github.com/fsnotify/fsnotify"}, "hints about folders, for sources"},
	{"secrets/sealed", []string{"secrets", "secrets/watch"}, "a source"},
	{"secrets/file", []string{"secrets", "secrets/watch"}, "a source"},
	{"secrets/env", []string{"secrets"}, "a source"},
	{"secrets/kube/cluster", []string{"lib:k8s.io/client-go", "lib:k8s.io/apimachinery", "lib:github.com/go-logr/logr"}, "lists and watches of any kind of objects; knows none"},
	{"secrets/kube", []string{"secrets", "lib:k8s.io/client-go", "lib:k8s.io/apimachinery"}, "a source; knows how an API server is reached"},
	{"secrets/vault", []string{"secrets", "lib:github.com/hashicorp/vault/api"}, "a source; the only user of Vault's client"},
	{"secrets", nil, "the broker is the bottom of the house"},
	{"edge/exchange/wire", []string{"edge/exchange"}, "the codec lies below engines and upstream"},
	{"edge/exchange", nil, "a leaf"},
	{"routing/spec", []string{"secrets", "routing/expr", "lib:go.yaml.in/yaml/v3"}, "desired state is data"},
	{"certs/ocsp", []string{"secrets", "certs", "lib:golang.org/x/crypto"}, "staples"},
	{"certs/acme", []string{"secrets", "certs", "lib:golang.org/x/crypto"}, "an issuer; the only user of the ACME client"},
	{"certs/statevault", []string{"secrets", "secrets/vault", "certs", "lib:github.com/hashicorp/vault/api"}, "shared state"},
	{"certs/vaultpki", []string{"secrets", "secrets/vault", "certs"}, "an issuer; shares Vault's client"},
	{"certs/certmanager", []string{"secrets/kube", "secrets/kube/cluster"}, "what cert-manager says of Secrets; shares the provider's way to list and watch"},
	{"certs/certtest", []string{"secrets", "certs", "lib:golang.org/x/crypto"}, "an authority with a responder, for tests"},
	{"certs", []string{"secrets", "certs"}, "certificates know the broker and nothing of routing"},
	{"policy/compression", []string{"edge/exchange", "routing/spec", "policy", "lib:github.com/klauspost/compress", "lib:github.com/andybalholm/brotli"}, "a plugin; the only user of the encoders"},
	{"policy", []string{"secrets", "edge/exchange", "routing/spec", "policy"}, "plugins see requests and documents"},
	{"routing/provide/file", []string{"routing/spec", "routing/store", "lib:github.com/fsnotify/fsnotify"}, "providers write documents"},
	{"routing/provide/kube/admission", []string{"routing/spec", "routing/provide/kube/translate"}, "judges objects by the rules that documents are made with"},
	{"routing/provide/kube/translate", []string{"secrets", "routing/spec"}, "objects in, documents out; knows no server"},
	{"routing/provide/kube", []string{"routing/spec", "routing/provide/kube/translate", "secrets/kube", "secrets/kube/cluster", "lib:k8s.io/apimachinery"}, "a provider; shares the connection of the source of Secrets"},
	{"routing/expr", []string{"edge/exchange"}, "a language over requests"},
	{"routing/upstream", []string{"secrets", "certs", "edge/exchange", "routing/spec", "lib:golang.org/x/net"}, "upstreams; reads the times of DNS messages"},
	{"routing", []string{"secrets", "certs", "edge/exchange", "routing/spec", "routing/expr", "routing/upstream"}, "the router"},
	{"edge/rulings", []string{"certs"}, "decisions about certificates"},
	{"edge/sigv4", nil, "signatures are arithmetic"},
	{"edge/proxyproto", nil, "a codec"},
	{"edge/handover", []string{"lib:golang.org/x/net", "lib:golang.org/x/sys"}, "sockets and processes; knows nothing of what is served"},
	{"edge/http1", []string{"edge", "edge/exchange"}, "an engine"},
	{"edge/http2", []string{"edge", "edge/exchange", "lib:golang.org/x/net"}, "an engine"},
	{"edge/http3", []string{"edge", "edge/exchange", "edge/handover", "lib:github.com/quic-go/quic-go", "lib:github.com/quic-go/qpack"}, "an engine; the only user of QUIC"},
	{"edge/stream", []string{"edge", "edge/exchange", "edge/handover", "edge/proxyproto", "routing"}, "an engine; finds the route of a stream itself"},
	{"edge/telemetry", []string{"edge", "edge/exchange", "secrets", "certs", "policy", "routing", "lib:github.com/prometheus/client_golang"}, "the only user of the Prometheus client"},
	{"edge/control", []string{"edge", "edge/exchange", "edge/handover", "edge/telemetry", "secrets", "certs", "policy", "routing"}, "the control socket"},
	{"edge/lastgood", []string{"secrets", "routing/spec"}, "what a node starts from when all else fails; sees neither traffic nor sources"},
	{"edge/admin", []string{"routing/spec", "routing/store"}, "the Admin API writes documents and cannot reach the data path"},
	{"edge", []string{"secrets", "certs", "policy", "routing", "edge/exchange", "edge/rulings", "edge/sigv4", "edge/proxyproto", "edge/handover"}, "the edge puts all together"},
	{"cmd", []string{"*"}, "wiring"},
	{"integration", []string{"*"}, "proof"},
}

func TestLawImportDirections(t *testing.T) {
	for _, p := range packages(t) {
		own := strings.TrimPrefix(p.ImportPath, module)
		rule := slices.IndexFunc(directions, func(d struct {
			tree  string
			may   []string
			which string
		},
		) bool {
			return within(own, d.tree)
		})
		if rule < 0 {
			t.Errorf("%s: no rule says what it may import; add its tree to directions", own)
			continue
		}
		d := directions[rule]
		for _, imp := range p.Imports {
			if !allowed(own, imp, d.may) {
				t.Errorf("%s imports %s: %s (%s) may import %v", own, imp, d.tree, d.which, d.may)
			}
			if strings.HasPrefix(own, "policy/") && isPlugin(own) && strings.HasPrefix(imp, module+"policy/") && isPlugin(strings.TrimPrefix(imp, module)) {
				t.Errorf("%s imports %s: a plugin never imports another plugin", own, imp)
			}
		}
	}
}

// isPlugin says whether a folder below policy is a plugin: it has a README.
func isPlugin(own string) bool {
	_, err := os.Stat(filepath.Join("..", own, "README.md"))
	return err == nil
}

func within(pkg, tree string) bool { return pkg == tree || strings.HasPrefix(pkg, tree+"/") }

func allowed(own, imp string, may []string) bool {
	if slices.Contains(may, "*") {
		return !strings.HasPrefix(imp, module+"cmd/") || within(own, "cmd")
	}
	if strings.HasPrefix(imp, module) {
		imp = strings.TrimPrefix(imp, module)
		if within(imp, "cmd") || within(imp, "integration") {
			return false
		}
		for _, m := range may {
			// A tree may import its own parts' parents only where named; edge
			// itself may not import its engines.
			if m == imp || m == "policy" && within(imp, m) || m == "certs" && within(imp, m) || m == "routing" && within(imp, m) || m == "secrets" && imp == "secrets" || m == "edge/exchange" && within(imp, m) {
				return true
			}
		}
		return false
	}
	if !strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") {
		return true // standard library
	}
	return slices.ContainsFunc(may, func(m string) bool {
		lib, ok := strings.CutPrefix(m, "lib:")
		return ok && within(imp, lib)
	})
}

// sources parses every Go file of the product that is not a test.
func sources(t *testing.T, visit func(p listed, name string, set *token.FileSet, f *ast.File, text []byte)) {
	t.Helper()
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			path := filepath.Join(p.Dir, name)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, path, text, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			rel, _ := filepath.Rel(root(t), path)
			visit(p, rel, set, f, text)
		}
	}
}

func TestLawPackageComments(t *testing.T) {
	comments := map[string][]string{}
	sources(t, func(p listed, name string, _ *token.FileSet, f *ast.File, _ []byte) {
		if f.Doc != nil {
			comments[p.ImportPath] = append(comments[p.ImportPath], name)
		}
	})
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && len(comments[p.ImportPath]) != 1 {
			t.Errorf("%s has %d package comments (%v), expected one", p.ImportPath, len(comments[p.ImportPath]), comments[p.ImportPath])
		}
	}
}

func TestLawBudgets(t *testing.T) {
	const fileMax, funcMax, mainMax, methodMax = 500, 80, 80, 4
	sources(t, func(_ listed, name string, set *token.FileSet, f *ast.File, text []byte) {
		if n := bytes.Count(text, []byte("\n")); n > fileMax {
			t.Errorf("%s has %d lines, at most %d: are these two ideas?", name, n, fileMax)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				lines := set.Position(n.End()).Line - set.Position(n.Pos()).Line + 1
				limit := funcMax
				if n.Name.Name == "main" {
					limit = mainMax
				}
				if lines > limit && !isTable(n) {
					t.Errorf("%s: func %s has %d lines, at most %d", name, n.Name.Name, lines, limit)
				}
			case *ast.InterfaceType:
				if n.Methods.NumFields() > methodMax {
					t.Errorf("%s:%d: an interface has %d methods, at most %d", name, set.Position(n.Pos()).Line, n.Methods.NumFields(), methodMax)
				}
			}
			return true
		})
	})
}

// isTable says whether a function is one return of a literal: data, not code.
func isTable(f *ast.FuncDecl) bool {
	if f.Body == nil || len(f.Body.List) != 1 {
		return false
	}
	_, ok := f.Body.List[0].(*ast.ReturnStmt)
	return ok
}

func TestLawNoInitAndNoGlobals(t *testing.T) {
	written := map[string]map[string]string{} // package -> variable -> file
	sources(t, func(p listed, name string, set *token.FileSet, f *ast.File, _ []byte) {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					t.Errorf("%s: func init: wiring is explicit, in cmd", name)
				}
			case *ast.GenDecl:
				if d.Tok != token.VAR {
					continue
				}
				for _, s := range d.Specs {
					for _, id := range s.(*ast.ValueSpec).Names {
						if written[p.ImportPath] == nil {
							written[p.ImportPath] = map[string]string{}
						}
						written[p.ImportPath][id.Name] = name
					}
				}
			}
		}
	})
	// A package variable is a constant that Go has no const for: nothing may assign to it.
	sources(t, func(p listed, name string, set *token.FileSet, f *ast.File, _ []byte) {
		ast.Inspect(f, func(n ast.Node) bool {
			a, ok := n.(*ast.AssignStmt)
			if !ok || a.Tok == token.DEFINE {
				return true
			}
			for _, l := range a.Lhs {
				for {
					if ix, ok := l.(*ast.IndexExpr); ok {
						l = ix.X
						continue
					}
					break
				}
				if id, ok := l.(*ast.Ident); ok && id.Obj != nil && id.Obj.Kind == ast.Var {
					if _, global := id.Obj.Decl.(*ast.ValueSpec); global && written[p.ImportPath][id.Name] != "" && id.Obj.Pos() < f.End() && isTopLevel(f, id.Obj) {
						t.Errorf("%s:%d: assigns to the package variable %s", name, set.Position(a.Pos()).Line, id.Name)
					}
				}
			}
			return true
		})
	})
}

//lint:ignore SA1019 what one file says of its own identifiers is all that is asked here
func isTopLevel(f *ast.File, o *ast.Object) bool { return f.Scope.Lookup(o.Name) == o }

func TestLawContexts(t *testing.T) {
	sources(t, func(_ listed, name string, set *token.FileSet, f *ast.File, _ []byte) {
		if strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "integration/") {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := s.X.(*ast.Ident)
			if !ok {
				return true
			}
			switch call := x.Name + "." + s.Sel.Name; call {
			case "context.Background", "context.TODO":
				t.Errorf("%s:%d: %s: a context comes from the caller", name, set.Position(n.Pos()).Line, call)
			case "os.Exit", "time.Sleep", "http.DefaultClient", "http.DefaultTransport", "http.DefaultServeMux":
				t.Errorf("%s:%d: %s has no place in the product's packages", name, set.Position(n.Pos()).Line, call)
			}
			return true
		})
	})
}

func TestLawExportedDocs(t *testing.T) {
	missing := 0
	sources(t, func(_ listed, name string, set *token.FileSet, f *ast.File, _ []byte) {
		report := func(pos token.Pos, what string) {
			missing++
			t.Errorf("%s:%d: exported %s has no doc comment", name, set.Position(pos).Line, what)
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) && !isCommon(d) {
					report(d.Pos(), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						if s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
							report(s.Pos(), s.Name.Name)
						}
					case *ast.ValueSpec:
						if s.Names[0].IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
							report(s.Pos(), s.Names[0].Name)
						}
					}
				}
			}
		}
	})
	if missing > 0 {
		t.Logf("%d exported names without documentation", missing)
	}
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	x := d.Recv.List[0].Type
	if s, ok := x.(*ast.StarExpr); ok {
		x = s.X
	}
	if ix, ok := x.(*ast.IndexExpr); ok {
		x = ix.X
	}
	id, ok := x.(*ast.Ident)
	return ok && id.IsExported()
}

// isCommon says whether a method's meaning is its interface's: error, Stringer, io.
func isCommon(d *ast.FuncDecl) bool {
	return d.Recv != nil && slices.Contains([]string{"Error", "Unwrap", "String", "Read", "Write", "Close"}, d.Name.Name)
}

func TestLawTopLevel(t *testing.T) {
	entries, err := os.ReadDir(root(t))
	if err != nil {
		t.Fatal(err)
	}
	folders := []string{"cmd", "edge", "certs", "secrets", "routing", "policy", "deploy", "integration", "docs", "bin"}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !slices.Contains(folders, e.Name()) {
			t.Errorf("%s: a top-level folder that the design does not have", e.Name())
		}
	}
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "Makefile", "go.mod"} {
		if _, err := os.Stat(filepath.Join(root(t), name)); err != nil {
			t.Error(err)
		}
	}
}

// TestLawPluginREADMEs checks that each plugin's README has its sections, in order.
func TestLawPluginREADMEs(t *testing.T) {
	sections := []string{"## Synopsis", "## Configuration", "## Example", "## Behaviour", "## Metrics and headers", "## Differences"}
	files, err := filepath.Glob("../policy/*/README.md")
	if err != nil || len(files) < 11 {
		t.Fatalf("%d plugin READMEs, expected at least 11 (%v)", len(files), err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		at := 0
		for _, s := range sections {
			i := bytes.Index(text[at:], []byte("\n"+s+"\n"))
			if i < 0 {
				t.Errorf("%s: section %q is missing or out of order", f, s)
				break
			}
			at += i
		}
	}
}

// TestLawDependencies checks that ARCHITECTURE.md has one line for every direct dependency.
func TestLawDependencies(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(mod)) {
		f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(f) == 2 && strings.HasPrefix(f[1], "v") && !strings.Contains(line, "// indirect") {
			count++
			if !bytes.Contains(text, []byte(fmt.Sprintf("`%s`", f[0]))) {
				t.Errorf("ARCHITECTURE.md does not say what %s is for", f[0])
			}
		}
	}
	if count == 0 {
		t.Error("go.mod has no direct dependency: this test reads it wrongly")
	}
}

// TestLawMetricNames reads what a node that has served exposes: names in snake
// case with the product's prefix (or that of the format's users), a unit at the end of
// what has one, _total at the end of what only grows.
func TestLawMetricNames(t *testing.T) {
	g := start(t, options{})
	if _, err := do(g.proxy, g.tls, sent{Method: "GET", Target: "/echo", Headers: [][2]string{{"Host", "localhost"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := do(g.proxy, g.tls, sent{Method: "GET", Target: "/echo", TLS: true, SNI: "localhost", Headers: [][2]string{{"Host", "localhost"}}}); err != nil {
		t.Fatal(err)
	}
	_, text := g.read("/metrics")
	families := 0
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 4 || f[1] != "TYPE" {
			continue
		}
		families++
		name, kind := f[2], f[3]
		own := strings.HasPrefix(name, "keyway_")
		switch {
		case !own && !strings.HasPrefix(name, "kong_"):
			t.Errorf("%s has neither the product's prefix nor that of the format", name)
		case strings.ToLower(name) != name || strings.ContainsAny(name, "-.:"):
			t.Errorf("%s is not in snake case", name)
		case own && (kind == "counter") != strings.HasSuffix(name, "_total"):
			t.Errorf("%s is a %s: counters, and they alone, end with _total", name, kind)
		case own && kind == "histogram" && !strings.HasSuffix(name, "_seconds"):
			t.Errorf("%s is a histogram without a unit", name)
		}
	}
	if families < 15 {
		t.Errorf("%d families only", families)
	}
}
