package policy

import "github.com/keyway-edge/keyway/routing/spec"

// The request fields by which the upstream learns who the client is. Whatever a
// client sends under these names is replaced or removed by Authenticate.
const (
	fieldConsumerID       = "X-Consumer-ID"
	fieldConsumerCustomID = "X-Consumer-Custom-ID"
	fieldConsumerUsername = "X-Consumer-Username"
	fieldCredential       = "X-Credential-Identifier"
	fieldAnonymous        = "X-Anonymous-Consumer"
)

// Authenticate makes consumer the one that the request is from and tells the
// upstream so. The identity is the credential it was known by, nil for a consumer
// that stands for clients without one (anonymous).
func Authenticate(c *Context, consumer *spec.Consumer, identity *Identity, anonymous bool) {
	c.Consumer, c.Credential, c.Anonymous = consumer, identity, anonymous
	c.setOrDrop(fieldConsumerID, consumer.ID)
	c.setOrDrop(fieldConsumerCustomID, consumer.CustomID)
	c.setOrDrop(fieldConsumerUsername, consumer.Username)
	credential, mark := "", ""
	if identity != nil {
		credential = identity.ID
	}
	if anonymous {
		mark = "true"
	}
	c.setOrDrop(fieldCredential, credential)
	c.setOrDrop(fieldAnonymous, mark)
}

// Authenticated says whether an authentication plugin has accepted a credential.
// A plugin that has an anonymous consumer configured then leaves the request as
// it is, which makes several of them alternatives; one that has none judges the
// request all the same, so that each of them must accept it.
func (c *Context) Authenticated() bool { return c.Credential != nil }

func (c *Context) setOrDrop(name, value string) {
	if value == "" {
		c.X.Request.Fields.Del(name)
		return
	}
	c.X.Request.Fields.Set(name, value)
}
