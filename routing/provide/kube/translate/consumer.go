package translate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

const credentialLabel = "konghq.com/credential"

// consumer claims the names of a consumer.
func (w *run) consumer() {
	c, ok := w.subject.(*Consumer)
	if !ok || !w.ours(c.Annotations[classAnnotation]) {
		return
	}
	if c.Username == "" && c.CustomID == "" {
		w.find("username", "expected a username, a custom_id or both", Closed)
		return
	}
	for kind, name := range map[string]string{collectUsername: c.Username, collectCustomID: c.CustomID} {
		if name != "" {
			w.give(Ref{kind, "", name}, claim{Object: RefOf(c), Created: c.CreationTimestamp})
		}
	}
	w.need(Ref{unitPerson, c.Namespace, c.Name})
}

// person makes a consumer that has its names for itself, with its credentials.
func (w *run) person() {
	c, ok := w.subject.(*Consumer)
	if !ok {
		return
	}
	for _, name := range [][3]string{{collectUsername, c.Username, "username"}, {collectCustomID, c.CustomID, "custom_id"}} {
		if name[1] == "" {
			continue
		}
		if best := oldest(w.collected(Ref{name[0], "", name[1]})); best == nil || best.Object != RefOf(c) {
			w.find(name[2], "expected one that no other consumer has; one that is older has it", Closed)
			return
		}
	}
	id := consumerID(c)
	consumer := map[string]any{"id": id, "tags": w.tags(c)}
	if c.Username != "" {
		consumer["username"] = c.Username
	}
	if c.CustomID != "" {
		consumer["custom_id"] = c.CustomID
	}
	values := map[string][]any{"consumers": {consumer}}
	for i, name := range c.Credentials {
		w.credential(c, id, name, fmt.Sprintf("credentials[%d]", i), values)
	}
	if len(c.Groups) > 0 && w.unreadable(KindConsumerGroup, c.Namespace) {
		w.refuse("consumerGroups", unreadText(KindConsumerGroup)) // a group's plugins may limit it
	} else if groups := w.joins(c); len(groups) > 0 {
		consumer["groups"] = groups
	}
	closed := w.plugins(&c.Meta, "consumer", []string{id})
	if w.refused || closed != "" || !w.compose(values, map[string]string{"consumers.username": "username", "consumers.custom_id": "custom_id"}) {
		w.doc = nil // a consumer without what limits it would be let do more: it is nobody
	}
}

func consumerID(c *Consumer) string {
	if c.Username != "" {
		return spec.DeriveID("consumers", c.Username)
	}
	return spec.DeriveID("consumers", "custom_id:"+c.CustomID)
}

// oldest is the oldest of some claims, of equal ones the first by name.
func oldest(all []said) *claim {
	var best *claim
	for _, s := range all {
		if c, ok := s.v.(claim); ok && (best == nil || best.Implied && !c.Implied || best.Implied == c.Implied && c.Created.Before(best.Created)) {
			best = &c
		}
	}
	return best
}

// credential adds the credential in a Secret, by reference.
func (w *run) credential(c *Consumer, id, name, field string, values map[string][]any) {
	s, ok := w.look(KindCredential, c.Namespace, name).(*Credential)
	if !ok {
		w.ignore(field, "expected the name of a Secret in namespace "+c.Namespace+" with the label "+credentialLabel+"; there is no '"+name+"'"+w.labelledOnly(KindCredential))
		return
	}
	of := RefOf(s)
	lacks := func(key string) bool {
		if !s.Keys[key] {
			w.find(field, "expected Secret "+of.Namespace+"/"+of.Name+" to have a value in '"+key+"'", Ignored)
			return true
		}
		return false
	}
	switch kind := s.Labels[credentialLabel]; kind {
	case "key-auth":
		if lacks("key") {
			return
		}
		v := map[string]any{"id": spec.DeriveID("keyauth_credentials", "kubernetes:"+id+"/"+of.Name), "consumer": id, "key": w.secret(of, "key"), "tags": w.tags(s)}
		if text := s.Plain["ttl"]; text != "" {
			ttl, err := strconv.Atoi(text)
			if err != nil || ttl < 0 {
				w.ignore(field, "expected a number of seconds in 'ttl' of Secret "+of.Namespace+"/"+of.Name+"; the key is not used")
				return
			}
			v["ttl"] = ttl
		}
		values["keyauth_credentials"] = append(values["keyauth_credentials"], v)
	case "acl":
		if !s.Keys["group"] {
			w.refuse(field, "expected Secret "+of.Namespace+"/"+of.Name+" to have a value in 'group'")
			return
		}
		values["acls"] = append(values["acls"], map[string]any{"consumer": id, "group": s.Plain["group"], "tags": w.tags(s)})
	default:
		known := []string{"acl", "key-auth"}
		slices.Sort(known)
		w.ignore(field, "expected a label "+credentialLabel+" of "+strings.Join(known, " or ")+" on Secret "+of.Namespace+"/"+of.Name+", for which there are plugins, not '"+kind+"'")
	}
}
