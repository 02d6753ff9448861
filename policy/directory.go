package policy

import (
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// Directory is the consumers of a snapshot and what identifies them. Immutable.
type Directory struct {
	byID     map[string]*spec.Consumer
	byName   map[string]*spec.Consumer
	keys     *keyring
	groups   map[string][]string
	members  map[string][]*spec.ConsumerGroup // by consumer, ordered by name
	problems spec.Problems
	late     []lateKey // only while it is made
}

// keyring holds the keys themselves. It is behind a pointer, so that a Directory
// that is printed prints an address.
type keyring struct{ byKey map[string]Key }

// Key is an API key that is in force.
type Key struct {
	Credential *spec.KeyAuth
	Consumer   *spec.Consumer
	Version    int // of the secret value, 0 for a literal
	identity   *Identity
}

// Identity is what a request is known by that came with this key. Shared, not to
// be changed.
func (k Key) Identity() *Identity { return k.identity }

// NewDirectory indexes the consumers of doc. A credential whose reference has no
// value is left out and listed in Problems: it opens nothing.
func NewDirectory(doc *spec.Document, set *secrets.Set) *Directory {
	d := &Directory{
		byID:   make(map[string]*spec.Consumer, len(doc.Consumers)),
		byName: make(map[string]*spec.Consumer, len(doc.Consumers)),
		keys:   &keyring{make(map[string]Key, len(doc.KeyAuths))},
		groups: make(map[string][]string), members: doc.Memberships(),
	}
	for _, c := range doc.Consumers {
		d.byID[c.ID] = c
		if c.Username != "" {
			d.byName[c.Username] = c
		}
	}
	for _, k := range doc.KeyAuths {
		d.addKey(k, set)
	}
	for _, l := range d.late {
		if _, taken := d.keys.byKey[l.text]; !taken {
			d.keys.byKey[l.text] = l.key
		}
	}
	d.late = nil
	for _, a := range doc.ACLs {
		d.groups[a.Consumer] = append(d.groups[a.Consumer], a.Group)
	}
	return d
}

func (d *Directory) addKey(k *spec.KeyAuth, set *secrets.Set) {
	consumer := d.byID[k.Consumer]
	if consumer == nil {
		return // validation has reported it
	}
	value, version := k.Key.Value, 0
	if !k.Key.Ref.IsZero() {
		c := set.Get(k.Key.Ref)
		if c == nil || len(c.Value.Reveal()) == 0 {
			reason := "it was never fetched"
			if c != nil {
				reason = c.Reason
			}
			d.problems = append(d.problems, &spec.Problem{
				Pos: k.Pos, Entity: "keyauth_credentials", ID: k.ID, Field: "key", Reason: spec.ReasonCredential,
				Message: "reference " + k.Key.Ref.String() + " has no value (" + reason + "): the credential opens nothing until it has",
			})
			return
		}
		value, version = c.Value, c.Version
		defer d.addPrevious(k, consumer, c.Previous)
	}
	if _, taken := d.keys.byKey[string(value.Reveal())]; taken {
		// Why the later one stays out, in the order of the document: who a key opens
		// for must not depend on which was fetched first.
		d.problems = append(d.problems, &spec.Problem{
			Pos: k.Pos, Entity: "keyauth_credentials", ID: k.ID, Field: "key", Reason: spec.ReasonDuplicate,
			Message: "its key is another credential's too: expected a key of its own; until it has one it opens nothing",
		})
		return
	}
	d.keys.byKey[string(value.Reveal())] = Key{
		Credential: k, Consumer: consumer, Version: version,
		identity: &Identity{Plugin: "key-auth", ID: k.ID, Version: version},
	}
}

// addPrevious takes the values that were replaced and are still in their overlap: a
// client may not have the new one yet. A current key of somebody else is stronger.
func (d *Directory) addPrevious(k *spec.KeyAuth, consumer *spec.Consumer, previous []secrets.Old) {
	for _, o := range previous {
		d.late = append(d.late, lateKey{string(o.Value.Reveal()), Key{
			Credential: k, Consumer: consumer, Version: o.Version, identity: &Identity{Plugin: "key-auth", ID: k.ID, Version: o.Version},
		}})
	}
}

// lateKey is a key in its overlap.
type lateKey struct {
	text string
	key  Key
}

// Consumer finds a consumer by id, else by username; nil for none.
func (d *Directory) Consumer(idOrUsername string) *spec.Consumer {
	if c := d.byID[idOrUsername]; c != nil {
		return c
	}
	return d.byName[idOrUsername]
}

// Key finds who an API key belongs to.
func (d *Directory) Key(key string) (Key, bool) {
	k, ok := d.keys.byKey[key]
	return k, ok
}

// Groups is the ACL groups of a consumer, in the document's order.
func (d *Directory) Groups(consumerID string) []string { return d.groups[consumerID] }

// ConsumerGroups is the groups that a consumer is a member of, ordered by name.
func (d *Directory) ConsumerGroups(consumerID string) []*spec.ConsumerGroup {
	return d.members[consumerID]
}

// Problems lists credentials that could not be indexed.
func (d *Directory) Problems() spec.Problems { return d.problems }
