package policy

// State is a typed place in a Context for what a plugin instance must remember
// between its phases. Make one per instance in Compile with NewState.
type State[T any] struct {
	key *byte
}

type slot[T any] struct {
	key *byte
	val T
}

// NewState makes a State that no other instance shares.
func NewState[T any]() State[T] { return State[T]{key: new(byte)} }

// Of is the place for this request, made zero at first use.
func (s State[T]) Of(c *Context) *T {
	if at := s.Peek(c); at != nil {
		return at
	}
	v := &slot[T]{key: s.key}
	c.slots = append(c.slots, v)
	return &v.val
}

// Peek is what Of has made for this request, nil when nothing has: to look costs
// no memory.
func (s State[T]) Peek(c *Context) *T {
	for _, x := range c.slots {
		if v, ok := x.(*slot[T]); ok && v.key == s.key {
			return &v.val
		}
	}
	return nil
}
