package translate

import (
	"fmt"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

// partyState is what consumers read of a group that they are in.
type partyState struct {
	ID     string
	Closed string // it is not right: who is in it would be let do more than it allows
}

// groupName is what a group wants to be called.
func (g *ConsumerGroup) groupName() string {
	if g.Spec.Name != "" {
		return g.Spec.Name
	}
	return g.Name
}

func groupID(g *ConsumerGroup) string {
	return spec.DeriveID("consumer_groups", "kubernetes:"+g.Namespace+"/"+g.Name)
}

// consumerGroup claims the name of a group.
func (w *run) consumerGroup() {
	g, ok := w.subject.(*ConsumerGroup)
	if !ok || !w.ours(g.Annotations[classAnnotation]) {
		return
	}
	w.give(Ref{collectGroupName, "", g.groupName()}, claim{Object: RefOf(g), Created: g.CreationTimestamp})
	w.need(Ref{unitParty, g.Namespace, g.Name})
}

// party makes a group. Names are of a namespace there and of everything here: of several
// groups with one name the oldest has it, the others have their namespace before it.
func (w *run) party() {
	g, ok := w.subject.(*ConsumerGroup)
	if !ok || !w.ours(g.Annotations[classAnnotation]) {
		return
	}
	name := g.groupName()
	if strings.Contains(name, "/") {
		w.refuse("spec.name", "expected a name without a slash")
	}
	if best := oldest(w.collected(Ref{collectGroupName, "", name})); best == nil || best.Object != RefOf(g) {
		name = g.Namespace + "/" + name
	}
	id := groupID(g)
	closed := w.plugins(&g.Meta, "group", []string{id})
	if !w.refused {
		w.compose(map[string][]any{"consumer_groups": {map[string]any{"id": id, "name": name, "tags": append(w.tags(g), g.Spec.Tags...)}}}, map[string]string{"consumer_groups.tags": "spec.tags"})
	}
	if w.refused {
		closed, w.doc = w.why, nil
	}
	w.say(partyState{ID: id, Closed: closed})
}

// joins are the ids of the groups that a consumer is in. One that is not right is not
// left out, without which the consumer would be let do more.
func (w *run) joins(c *Consumer) []any {
	var ids []any
	for i, name := range c.Groups {
		field := fmt.Sprintf("consumerGroups[%d]", i)
		if g, ok := w.look(KindConsumerGroup, c.Namespace, name).(*ConsumerGroup); !ok || !w.ours(g.Annotations[classAnnotation]) {
			w.ignore(field, "expected the name of a KongConsumerGroup in namespace "+c.Namespace+"; there is no '"+name+"'")
			continue
		}
		state, _ := w.value(Ref{unitParty, c.Namespace, name}).(partyState)
		if state.Closed != "" {
			w.refuse(field, "KongConsumerGroup "+c.Namespace+"/"+name+" is not right ("+state.Closed+")")
			continue
		}
		ids = append(ids, state.ID)
	}
	return ids
}
