package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// ErrBodyTooLarge is what RequestBody answers for a body longer than the caller
// is ready to hold. The body is still whole for whoever reads it next.
var ErrBodyTooLarge = errors.New("the request body is longer than this plugin reads into memory")

// bodyCache is a request body that was read into memory.
type bodyCache struct {
	bytes  []byte
	reader *bytes.Reader // what the request's Body was set to; another means the body was replaced
}

// RequestBody reads the whole request body, of at most limit bytes, and leaves it
// in place for those who come after. The caller must not change the bytes:
// SetRequestBody does. An error that is the client's is an *exchange.BodyError.
func (c *Context) RequestBody(limit int64) ([]byte, error) {
	r := &c.X.Request
	if r.Length == 0 || r.Body == nil {
		return nil, nil
	}
	if c.body.reader != nil && r.Body == io.Reader(c.body.reader) {
		if int64(len(c.body.bytes)) > limit {
			return nil, ErrBodyTooLarge
		}
		return c.body.bytes, nil
	}
	if r.Length > limit {
		return nil, ErrBodyTooLarge
	}
	var buf bytes.Buffer
	if r.Length > 0 {
		buf.Grow(int(r.Length) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(io.LimitReader(r.Body, limit+1)); err != nil {
		return nil, fmt.Errorf("reading the request body: %w", err)
	}
	if int64(buf.Len()) > limit {
		r.Body = &rest{Reader: io.MultiReader(bytes.NewReader(buf.Bytes()), r.Body), under: r.Body}
		return nil, ErrBodyTooLarge
	}
	c.SetRequestBody(buf.Bytes())
	return c.body.bytes, nil
}

// SetRequestBody replaces the request body and its length. It takes ownership of b.
func (c *Context) SetRequestBody(b []byte) {
	c.body = bodyCache{bytes: b, reader: bytes.NewReader(b)}
	r := &c.X.Request
	r.Body, r.Length = c.body.reader, int64(len(b))
	r.Expect100 = false // it has been read: nobody waits for 100 any more
}

// rest is a body whose beginning was read and put back.
type rest struct {
	io.Reader
	under io.Reader
}

// Close closes the body beneath, if it can be closed.
func (r *rest) Close() error {
	if c, ok := r.under.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// SetQuery replaces the query of the request, raw and without '?'; has tells "/a?"
// from "/a". Target follows, so that what is logged, judged and sent agree.
func (c *Context) SetQuery(query string, has bool) {
	r := &c.X.Request
	r.Query, r.HasQuery = query, has
	r.Target = r.Path
	if has {
		r.Target = r.Path + "?" + query
	}
}
