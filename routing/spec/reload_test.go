package spec

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// agree loads with a Loader and without, and answers the Loader's document.
func agree(t testing.TB, l *Loader, sources []Source) *Document {
	t.Helper()
	got, gotProblems := l.Load(sources)
	want, wantProblems := Load(sources, l.Schemas)
	if !reflect.DeepEqual(gotProblems, wantProblems) {
		t.Fatalf("problems\n%v\nwant\n%v\nof\n%s", gotProblems, wantProblems, sources[0].Data)
	}
	if want == nil {
		if got != nil {
			t.Fatal("a document in spite of problems")
		}
		return nil
	}
	plain := *got
	plain.fresh = want.fresh
	if !reflect.DeepEqual(&plain, want) {
		a, _ := plain.Encode()
		b, _ := want.Encode()
		t.Fatalf("the document is not what Load makes of\n%s\ngot\n%s\nwant\n%s\n%v", sources[0].Data, a, b, Diff(&plain, want))
	}
	return got
}

// blocks are pieces of documents, each with the list that it is for.
func blocks(r *rand.Rand, n int) (kind, text string) {
	one := func(list ...string) string { return list[r.IntN(len(list))] }
	switch r.IntN(10) {
	case 0:
		return "services", fmt.Sprintf("- name: s%d\n  url: http://h%d:80/x\n  # a remark\n  routes:\n  - name: r%d\n    paths: [/a%d]\n  - paths:\n    - /b%d\n    hosts: [\"*.x%d.test\"]\n", n, n, n, n, n, n)
	case 1:
		return "services", fmt.Sprintf("- {name: s%d, host: up, tags: [a, b%d]}\n\n", n, n)
	case 2:
		return "routes", fmt.Sprintf("- name: r%d\n  service: %s\n  paths: [\"/c%d\"]\n", n, one("s1", "{name: s2}", "s3", "s4"), n)
	case 3:
		return "routes", fmt.Sprintf("- paths: [/only]\n  methods: [%s]\n", one("GET", "POST", "PUT"))
	case 4:
		return "consumers", fmt.Sprintf("- username: u%d\n  keyauth_credentials:\n  - key: \"{vault://env/k%d}\"\n  - key: lit%d\n  acls: [{group: g}]\n  groups: [%s]\n", n%20, n, n, one("", "", "g1", "{name: g2}", "g2, {name: g2}"))
	case 5:
		return "upstreams", fmt.Sprintf("- name: up%d\n  targets:\n  - target: 10.0.0.%d:80\n  - {target: \"10.0.1.%d\", weight: %d}\n", n%9, n%200, n%200, n%5)
	case 6:
		return "plugins", fmt.Sprintf("- name: rich\n  %s\n  config:\n    count: %d\n    free:\n      text: |\n        - not\n        an item\n      more: \"- x\n\n        y\"\n", one("service: s1", "route: r3", "service: s2", "instance_name: i"), 1+n%9)
	case 7:
		return "consumer_groups", fmt.Sprintf("- name: g%d\n  consumers: [%s]\n  plugins: [{name: rich, config: {count: %d}}]\n", n%4, one("", "", "u1", "{username: u2}"), 1+n%9)
	case 8:
		return "targets", fmt.Sprintf("- upstream: up%d\n  target: 10.9.%d.1:80\n", n%9, n%200)
	default:
		return one("routes", "services", "consumers"), one("- {}\n", "-\n", "- a: &x 1\n", "- username: *x\n", "- name: \"open\n", "- name: s\n b: c\n", "- username: \"a\n- b\"\n", "-  username: \"v\n\n    w\"\n", "- {username: [\n", "- name: s1\n  host: h\n  name: s1\n")
	}
}

// TestReload edits documents over and over. What the Loader makes of each is what
// Load makes of it, problems included.
func TestReload(t *testing.T) {
	good, takenOver := 0, 0
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 3))
		l := &Loader{Schemas: rich()}
		lists := map[string][]string{}
		heads := []string{"_format_version: \"3.0\"\n", "---\n# top\n_format_version: \"3.0\"\n_info: {select_tags: [t]}\n", "_format_version: \"1.1\"\n_comment: |\n  - a\n  routes:\n"}
		head := heads[r.IntN(2)]
		for n := range 120 {
			kind, text := blocks(r, 1+r.IntN(60))
			list := lists[kind]
			switch {
			case r.IntN(60) == 0:
				head = heads[r.IntN(len(heads))]
			case len(list) > 3 && r.IntN(3) == 0:
				at := r.IntN(len(list))
				list = slices.Delete(list, at, at+1)
			case strings.HasPrefix(text, "- {}") && n%3 > 0:
			default:
				list = slices.Insert(list, r.IntN(len(list)+1), text)
			}
			lists[kind] = list
			var b strings.Builder
			b.WriteString(head)
			for _, kind := range []string{"services", "routes", "consumer_groups", "consumers", "upstreams", "plugins", "targets"} {
				if len(lists[kind]) > 0 {
					fmt.Fprintf(&b, "%s:\n%s", kind, strings.Join(lists[kind], ""))
				}
			}
			if d := agree(t, l, []Source{{Name: "a.yaml", Data: []byte(b.String())}}); d != nil {
				good++
				if d.fresh < 8 && len(d.Routes)+len(d.Services) > 10 {
					takenOver++
				}
			} else { // what broke it goes again, so that most documents are good
				for _, kind := range sortedKeys(lists) { // in one order, so that seeds decide
					lists[kind] = slices.DeleteFunc(lists[kind], func(s string) bool { return s == text || r.IntN(6) == 0 })
				}
			}
		}
	}
	t.Logf("%d good documents, %d of them with little read", good, takenOver)
	if good < 200 || takenOver < 5 {
		t.Error("the test shows little")
	}
}

// TestReloadReadsOneEntity counts what is read after one change.
func TestReloadReadsOneEntity(t *testing.T) {
	l := &Loader{}
	text := string(bigYAML(2000))
	first := agree(t, l, []Source{{Name: "big.yaml", Data: []byte(text)}})
	if first.Fresh() != 4000 {
		t.Errorf("%d entities were read at first", first.Fresh())
	}
	second := agree(t, l, []Source{{Name: "big.yaml", Data: []byte(strings.Replace(text, "things-77]", "changed]", 1))}})
	if second.Fresh() != 2 {
		t.Errorf("%d entities were read after the change of one route, expected it and its service", second.Fresh())
	}
	for i := range second.Routes {
		if same := first.Routes[i] == second.Routes[i]; same != (i != 77) {
			t.Errorf("route %d is the same one: %v", i, same)
		}
	}
	// Lines that come before move the others.
	third := agree(t, l, []Source{{Name: "big.yaml", Data: []byte("# a remark\n" + text)}})
	if third.Routes[50].Pos.Line != first.Routes[50].Pos.Line+1 || first.Routes[50].Pos.Line != second.Routes[50].Pos.Line {
		t.Error("positions are not those of the text")
	}
}

// TestReloadInsideOfAnEntity counts what is read when one of many routes that are
// written inside of their service changes, and the service itself.
// TestReloadShares has the lists in which nothing differs be those of the document before.
func TestReloadShares(t *testing.T) {
	l := &Loader{}
	text := func(path string) []Source {
		return []Source{{Name: "a.yaml", Data: []byte("_format_version: \"3.0\"\nservices:\n- {name: s, host: h}\nroutes:\n- {name: r, service: s, paths: [" + path + "]}\n- {name: q, service: s, paths: [/q]}\n")}}
	}
	first, second, third := agree(t, l, text("/a")), agree(t, l, text("/b")), agree(t, l, text("/b"))
	if !second.SharesAllBut("routes", first) || !second.SharesRefs(first) || second.SharesAllBut("targets", first) {
		t.Error("expected a document that shares all but its routes")
	}
	if !third.SharesAllBut("", second) {
		t.Error("expected a document that shares everything")
	}
	// What is read again with something that changed, and is as it was, is the same one.
	nested := func(path string) []Source {
		return []Source{{Name: "a.yaml", Data: []byte("_format_version: \"3.0\"\nservices:\n- name: s\n  host: h\n  tags: [t]\n  routes:\n  - {name: r, paths: [" + path + "]}\n  - {name: q, paths: [/q]}\n")}}
	}
	l = &Loader{}
	first, second = agree(t, l, nested("/a")), agree(t, l, nested("/b"))
	if !second.SharesAllBut("routes", first) || second.Routes[0] == first.Routes[0] || second.Routes[1] != first.Routes[1] {
		t.Error("expected a document that shares all but one route")
	}
}

func TestReloadInsideOfAnEntity(t *testing.T) {
	text := func(host string, changed int, path string) []Source {
		var b strings.Builder
		fmt.Fprintf(&b, "_format_version: \"3.0\"\nservices:\n- name: s\n  host: %s\n  routes:\n", host)
		for i := range 500 {
			if i == changed {
				fmt.Fprintf(&b, "  - {name: r%d, paths: [%s]}\n", i, path)
			} else {
				fmt.Fprintf(&b, "  - name: r%d\n    paths: [/p%d]\n    plugins: [{name: rich}]\n", i, i)
			}
		}
		b.WriteString("  tags: [a]\n- name: t\n  host: h\n")
		return []Source{{Name: "a.yaml", Data: []byte(b.String())}}
	}
	l := &Loader{Schemas: rich()}
	agree(t, l, text("h", -1, ""))
	for i, want := range []int{1, 1, 1, 2} {
		sources := [][]Source{text("h", 100, "/x"), text("h", 100, "/y"), text("g", 100, "/y"), text("g", -1, "")}[i]
		if d := agree(t, l, sources); d.Fresh() != want {
			t.Errorf("change %d: %d entities were read, expected %d", i, d.Fresh(), want)
		}
	}
	// In another service the routes are others.
	sources := text("g", -1, "")
	sources[0].Data = []byte(strings.Replace(string(sources[0].Data), "name: s\n", "name: z\n", 1))
	if d := agree(t, l, sources); d.Fresh() < 1000 {
		t.Errorf("%d entities were read after their service got another name", d.Fresh())
	}
}

// TestReloadIsNotMisled cuts at lines that look like entities and are parts of texts.
func TestReloadIsNotMisled(t *testing.T) {
	filler := strings.Repeat("  # "+strings.Repeat("x", 60)+"\n", 80)
	for _, text := range []string{
		"_comment: \"abc\nservices:\n- {name: x, host: h}\n_x: \"\n",
		"consumers:\n- username: \"abc\nservices:\n- {name: x, host: h}\n_x: \"\n",
		"services:\n- name: s\n  host: h\n" + filler + "  path: \"/a\n  routes:\n  - {name: r, paths: [/x]}\n  tags: \"\n",
		"services:\n- name: s\n  host: h\n" + filler + "  tags: [a,\n  routes:\n  - {name: r, paths: [/x]}\n  ]\n",
		"services:\n- name: s\n  host: h\n" + filler + "  routes:\n  - {name: r, paths: [/x]}\n  routes:\n  - {name: q, paths: [/x]}\n",
		"services:\n- cut-0\n", "services:\n- name: s\n  host: h\nservices:\n- name: t\n  host: h\n",
	} {
		agree(t, &Loader{}, []Source{{Name: "a.yaml", Data: []byte("_format_version: \"3.0\"\n" + text)}})
	}
}

// TestReloadReadsAliasesAnew changes what an alias in other text stands for.
func TestReloadReadsAliasesAnew(t *testing.T) {
	l := &Loader{}
	for _, path := range []string{"/x", "/y"} {
		d := agree(t, l, []Source{{Name: "a.yaml", Data: []byte("_format_version: \"3.0\"\nroutes:\n- name: a\n  paths: [&a " + path + "]\n- name: b\n  paths: [*a ]\n")}})
		if d.Routes[1].Paths[0] != path {
			t.Errorf("the alias stands for %s, not %s", d.Routes[1].Paths[0], path)
		}
	}
}

// TestReloadByReference takes a name away that an entity in other text leads to.
func TestReloadByReference(t *testing.T) {
	l := &Loader{}
	load := func(body string) *Document {
		return agree(t, l, []Source{{Name: "a.yaml", Data: []byte("_format_version: \"3.0\"\nservices:\n" + body + "routes:\n- {name: r, service: s, paths: [/]}\n")}})
	}
	load("- {name: s, host: h}\n")
	d := load("- {id: 4f5a5c8e-0000-4000-8000-000000000001, name: s, host: h}\n")
	if d.Routes[0].Service != "4f5a5c8e-0000-4000-8000-000000000001" {
		t.Errorf("the route leads to %s", d.Routes[0].Service)
	}
	if load("- {name: other, host: h}\n") != nil {
		t.Error("a route to a service that is gone was taken over")
	}
	load("- {name: s, host: h}\n")
}

// FuzzReload reads one text after the other with one Loader.
func FuzzReload(f *testing.F) {
	head := "_format_version: \"3.0\"\n"
	f.Add([]byte(head+everything), []byte(head+everything+"\n# end\n"))
	f.Add([]byte(head+"services:\n- name: a\n  host: h\n- name: b\n  host: h\n"), []byte(head+"services:\n- name: a\n  host: \"h\n- name: b\n  host: h\"\n"))
	f.Add([]byte(head+"consumers:\n  - username: |\n      a\n  -  username: b\n"), []byte("---\n"+head+"consumers:\n  - username: |\n      a\n\n  -  username: c\n_comment: x\n"))
	f.Add([]byte(head+"consumers:\n- username: a\n- username: b\n"), []byte(head+"consumers:\n- username: b\n- username: 'a\n\n  - x'\nconsumers: []\n"))
	f.Add([]byte(head+"routes:\n- paths: [&a /x]\n- paths: [/y]\n"), []byte(head+"routes:\n- paths: [&a /z]\n- paths: [*a]\n"))
	schemas := rich()
	f.Fuzz(func(t *testing.T, first, second []byte) {
		l := &Loader{Schemas: schemas}
		for _, text := range [][]byte{first, second, first} {
			agree(t, l, []Source{{Name: "a.yaml", Data: text}})
		}
	})
}
