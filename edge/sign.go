package edge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/sigv4"
	"github.com/keyway-edge/keyway/routing/spec"
)

// signedBody is the most of a body that is read before it is sent, to be signed.
const signedBody = 10 << 20

// keptBody is a request body that was read whole: it can be sent again.
type keptBody struct {
	bytes.Reader
	sum string
}

var errSignedBody = errors.New("the body is longer than 10 MiB, which is the most that is signed; use a service whose bodies may stay unsigned")

// keep reads the body of a request, once.
func keep(x *exchange.Exchange) (*keptBody, error) {
	if k, ok := x.Request.Body.(*keptBody); ok {
		if _, err := k.Seek(0, io.SeekStart); err != nil {
			return nil, fmt.Errorf("reading a kept body again: %w", err)
		}
		return k, nil
	}
	data, err := io.ReadAll(io.LimitReader(x.Request.Body, signedBody+1))
	if err != nil {
		return nil, err
	}
	if len(data) > signedBody {
		return nil, &exchange.BodyError{Status: http.StatusRequestEntityTooLarge, Err: errSignedBody}
	}
	k := &keptBody{sum: sigv4.Hash(data)}
	k.Reset(data)
	x.Request.Body, x.Request.Length = k, int64(len(data))
	x.Request.LengthGiven = x.Request.LengthGiven || len(data) > 0
	return k, nil
}

// sign adds the fields of a signature over what is sent.
func (h *Handler) sign(r *request, a *upstreamAuth) error {
	sum := sigv4.Unsigned
	if !a.stream {
		k, err := keep(r.x)
		if err != nil {
			return err
		}
		sum = k.sum
	}
	o := &r.out
	if o.HostDefault {
		// The signature covers Host: it must not depend on the target that is picked.
		o.Host, o.HostDefault = signedHost(r.snap.Document, r.bind.service), false
	}
	for _, name := range []string{"X-Amz-Date", "X-Amz-Content-Sha256", "X-Amz-Security-Token"} {
		r.dropField(name)
	}
	path, query, _ := strings.Cut(o.URI, "?")
	for _, f := range a.signer.Sign(sigv4.Request{Method: r.x.Request.Method, Path: path, Query: query, Host: o.Host, PayloadHash: sum}, time.Now()) {
		r.fields.Add(f.Name, f.Value)
	}
	return nil
}

// signedHost is the Host of a service's requests: the host_header of its upstream,
// else its own host, with a port that is not the protocol's.
func signedHost(doc *spec.Document, s *spec.Service) string {
	for _, u := range doc.Upstreams {
		if u.Name == s.Host && u.HostHeader != "" {
			return u.HostHeader
		}
	}
	if s.Protocol == "https" && s.Port == 443 || s.Protocol == "http" && s.Port == 80 {
		return s.Host
	}
	return net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
}
