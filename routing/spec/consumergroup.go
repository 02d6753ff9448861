package spec

import (
	"slices"
	"strings"
)

// ConsumerGroup is a name for consumers that plugins may be scoped to. Who is in it is
// said on either side; see Memberships.
type ConsumerGroup struct {
	Meta
	Name      string
	Consumers []string // ids of Consumers; others say it themselves
}

// Kind is "consumer_groups".
func (*ConsumerGroup) Kind() string { return "consumer_groups" }

func (g *ConsumerGroup) fields(visit func(field)) {
	visit(field{"name", &g.Name, neededText})
	visit(field{"consumers", &g.Consumers, groupMembers})
}

// Memberships are the groups of each consumer that is in one, by its id. Each list is
// ordered by name: of several groups with a plugin of one kind the first counts.
func (d *Document) Memberships() map[string][]*ConsumerGroup {
	if len(d.ConsumerGroups) == 0 {
		return nil
	}
	byID := make(map[string]*ConsumerGroup, len(d.ConsumerGroups))
	all := map[string][]*ConsumerGroup{}
	join := func(consumer string, g *ConsumerGroup) {
		if g != nil && !slices.Contains(all[consumer], g) {
			all[consumer] = append(all[consumer], g)
		}
	}
	for _, g := range d.ConsumerGroups {
		byID[g.ID] = g
		for _, id := range g.Consumers {
			join(id, g)
		}
	}
	for _, c := range d.Consumers {
		for _, id := range c.Groups {
			join(c.ID, byID[id])
		}
	}
	for _, groups := range all {
		slices.SortFunc(groups, func(a, b *ConsumerGroup) int { return strings.Compare(a.Name, b.Name) })
	}
	return all
}

// members reads a list of foreign keys, each an id or a name, bare or in a map. What
// else some tools write into those maps is the entry's own.
func (o *object) members(v *node, f field, at *[]string) {
	items, ok := o.items(v, f.name, f.rule)
	if !ok || len(items) == 0 {
		return
	}
	list, nodes := make([]string, 0, len(items)), make([]*node, 0, len(items))
	for i, item := range items {
		to := item
		if item.shape == shapeObject {
			to = o.member(item, f.name+"."+itoa(i+1))
		}
		if to.shape != shapeText || to.text == "" {
			o.bad(to, f.name+"."+itoa(i+1), ReasonType, "expected the id or the name of an entry in '"+f.rule.refers+"'")
			continue
		}
		list, nodes = append(list, to.text), append(nodes, to)
	}
	*at = list
	for i, n := range nodes {
		o.l.links = append(o.l.links, link{owner: o.e, field: o.prefix + f.name, refers: f.rule.refers, at: &list[i], pos: o.l.pos(n)})
	}
}

// member is what an entry's own map calls it by: its id, or else its name.
func (o *object) member(n *node, path string) *node {
	best := &node{line: n.line, col: n.col}
	rank := len(memberKeys)
	for i, k := range n.keys {
		switch at := slices.Index(memberKeys, k.name); {
		case at < 0 && !slices.Contains(memberFields, k.name):
			o.l.report(Pos{o.l.file.name, k.line, k.col}, o.prefix+path+"."+k.name, ReasonUnknown, "unknown field")
		case at >= 0 && at < rank && n.items[i].shape != shapeNull:
			best, rank = n.items[i], at
		}
	}
	return best
}

var (
	memberKeys   = []string{"id", "name", "username"}
	memberFields = []string{"custom_id", "tags", "created_at", "updated_at"}
)

// settle leaves out what a list of members has twice, by its id and by its name.
func settle(made []Entity) {
	for _, e := range made {
		switch e := e.(type) {
		case *Consumer:
			e.Groups = distinct(e.Groups)
		case *ConsumerGroup:
			e.Consumers = distinct(e.Consumers)
		}
	}
}

func distinct(list []string) []string {
	var kept []string
	for _, s := range list {
		if !slices.Contains(kept, s) {
			kept = append(kept, s)
		}
	}
	return kept
}
