package translate

// Kinds are objects of a kind in a namespace, "" for all.
type Kinds struct{ Kind, Namespace string }

// unreadKinds is what units read who ask whether a kind may be read.
const unreadKinds = "unread-kinds"

// Unread says of which objects nobody knows whether there are any. They count as absent;
// what their absence would open to more than it should is closed.
func (s *State) Unread(now map[Kinds]bool) {
	for k := range s.unread {
		if !now[k] {
			s.touch(Ref{unreadKinds, k.Namespace, k.Kind})
		}
	}
	for k := range now {
		if !s.unread[k] {
			s.touch(Ref{unreadKinds, k.Namespace, k.Kind})
		}
	}
	s.unread = now
}

// unreadable says that nobody knows whether an object that was not found is there.
func (w *run) unreadable(kind, namespace string) bool {
	all, one := Ref{unreadKinds, "", kind}, Ref{unreadKinds, namespace, kind}
	w.reads[all], w.reads[one] = struct{}{}, struct{}{}
	return w.unread[Kinds{kind, ""}] || w.unread[Kinds{kind, namespace}]
}

// unreadText is what is expected of a kind that may not be read.
func unreadText(kind string) string {
	return "expected that the account of this node may list and watch objects of kind " + kind + ", which decide about it"
}
