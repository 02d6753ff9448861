package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

func TestDirectory(t *testing.T) {
	literal := func(id, consumer, key string) *spec.KeyAuth {
		return &spec.KeyAuth{Meta: spec.Meta{ID: id}, Consumer: consumer, Key: spec.Secret{Value: secrets.NewValue([]byte(key))}}
	}
	ref, err := secrets.ParseRef("{vault://env/ann-key}")
	if err != nil {
		t.Fatal(err)
	}
	// A consumer may be called like another one's id: ids come first.
	doc := &spec.Document{
		Consumers: []*spec.Consumer{
			{Meta: spec.Meta{ID: "1"}, Username: "ann"}, {Meta: spec.Meta{ID: "2"}, Username: "1"}, {Meta: spec.Meta{ID: "3"}, CustomID: "c"},
		},
		KeyAuths: []*spec.KeyAuth{
			literal("k1", "1", "top-secret"), literal("k2", "2", "top-secret"), literal("k3", "gone", "other"),
			{Meta: spec.Meta{ID: "k4"}, Consumer: "1", Key: spec.Secret{Ref: ref}},
		},
		ACLs: []*spec.ACL{{Consumer: "1", Group: "b"}, {Consumer: "1", Group: "a"}},
	}
	set := secrets.NewSet(1, &secrets.Credential{Ref: ref, Value: secrets.NewValue([]byte("from-env")), Version: 7, State: secrets.Active})
	if k, ok := NewDirectory(doc, set).Key("from-env"); !ok || k.Consumer.ID != "1" || k.Identity().Version != 7 {
		t.Errorf("a key by reference: %+v, %v", k, ok)
	}
	d := NewDirectory(doc, nil)
	for name, want := range map[string]string{"1": "1", "ann": "1", "2": "2", "3": "3"} {
		if c := d.Consumer(name); c == nil || c.ID != want {
			t.Errorf("Consumer(%q) = %v, want %s", name, c, want)
		}
	}
	if d.Consumer("") != nil || d.Consumer("c") != nil {
		t.Error("a consumer is found by nothing, or by its custom_id")
	}
	k, ok := d.Key("top-secret")
	if !ok || k.Consumer.ID != "1" || *k.Identity() != (Identity{Plugin: "key-auth", ID: "k1"}) {
		t.Errorf("Key: %+v, %v", k, ok)
	}
	for _, none := range []string{"", "other", "{vault://env/ann-key}", "Top-secret"} {
		if _, ok := d.Key(none); ok {
			t.Errorf("Key(%q) opens something", none)
		}
	}
	if got := strings.Join(d.Groups("1"), ","); got != "b,a" {
		t.Errorf("Groups: %s", got)
	}
	p := d.Problems()
	if len(p) != 2 || p[0].ID != "k2" || p[0].Reason != spec.ReasonDuplicate || p[1].ID != "k4" || p[1].Reason != spec.ReasonCredential {
		t.Errorf("problems: %v", p)
	}
	printed := p.Error() + fmt.Sprintf("%v %+v %#v", d, d, d) + fmt.Sprintf("%+v", k)
	if strings.Contains(printed, "top-secret") {
		t.Error("a key is printed")
	}
}
