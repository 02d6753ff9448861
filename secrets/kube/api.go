package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/client-go/rest"

	"github.com/keyway-edge/keyway/secrets"
)

const (
	limit   = 8 << 20          // bytes of one Secret or event; a Secret has at most 1 MiB of data
	page    = 250              // Secrets of one part of a list
	pageMax = 64 << 20         // bytes of it: annotations have at most 256 KiB for each
	patient = 30 * time.Second // for the beginning of an answer, when the caller has no shorter limit
)

var (
	errForeign = fmt.Errorf("%w: its namespace is not one that this vault may read", secrets.ErrDenied)
	errExpired = errors.New("the version to go on from is too old")
)

// dialPatient is for a connection: the kernel goes on for two minutes, with longer and longer pauses.
const dialPatient = 5 * time.Second

// key names a Secret; without a name all of its namespace, and without both all.
type key struct{ namespace, name string }

func (k key) String() string { return k.namespace + "/" + k.name }

// object is what is read of a Secret. Values are bytes, which never print as text.
type object struct {
	Metadata struct {
		Name              string    `json:"name"`
		Namespace         string    `json:"namespace"`
		ResourceVersion   string    `json:"resourceVersion"`
		CreationTimestamp time.Time `json:"creationTimestamp"`
		ManagedFields     []struct {
			Time time.Time `json:"time"`
		} `json:"managedFields"`
	} `json:"metadata"`
	Data map[string][]byte `json:"data"`
}

func (o *object) key() key { return key{o.Metadata.Namespace, o.Metadata.Name} }

// lease makes one of a Secret. A value that is not text becomes null, which no
// reference can use: the broker tells whoever asks for that key.
func (o *object) lease() (secrets.Lease, error) {
	fields := make(map[string]*string, len(o.Data))
	for name, b := range o.Data {
		fields[name] = nil
		if utf8.Valid(b) {
			s := string(b)
			fields[name] = &s
		}
	}
	whole, err := json.Marshal(fields)
	if err != nil {
		return secrets.Lease{}, errors.New("its data cannot be encoded")
	}
	modified := o.Metadata.CreationTimestamp
	for _, f := range o.Metadata.ManagedFields {
		if f.Time.After(modified) {
			modified = f.Time
		}
	}
	return secrets.Lease{Value: secrets.NewValue(whole), Version: o.Metadata.ResourceVersion, Modified: modified}, nil
}

// api asks the API server.
type api struct {
	base     *url.URL
	client   *http.Client
	selector string // of labels, which the Secrets have that count; "" for all
}

// Connect answers how the API server is asked: its address, a client that logs in, and
// the namespace that the settings, the kubeconfig or the pod says. It reads files and
// opens no connection.
func (c Config) Connect() (base *url.URL, client *http.Client, namespace string, err error) {
	if err := c.check(); err != nil {
		return nil, nil, "", err
	}
	rc, own, err := c.connection()
	if err != nil {
		return nil, nil, "", err
	}
	a, err := connect(rc)
	if err != nil {
		return nil, nil, "", err
	}
	return a.base, a.client, own, nil
}

// connect makes an api. It opens no connection and starts nothing, which is why
// the transport is made here: client-go's own starts goroutines that never end.
func connect(rc *rest.Config) (*api, error) {
	base, _, err := rest.DefaultServerUrlFor(rc)
	if err != nil {
		return nil, fmt.Errorf("the API server's address: %w", err)
	}
	tlsConfig, err := rest.TLSConfigFor(rc)
	if err != nil {
		return nil, fmt.Errorf("the API server's authorities or the client certificate: %w", err)
	}
	transport := &http.Transport{
		DialContext:     (&net.Dialer{Timeout: dialPatient}).DialContext,
		TLSClientConfig: tlsConfig, TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
		Proxy: rc.Proxy, MaxIdleConnsPerHost: 4, IdleConnTimeout: 90 * time.Second, ResponseHeaderTimeout: patient,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second}, // a dead connection is no quiet watch
	}
	wrapped, err := rest.HTTPWrappersForConfig(rc, transport)
	if err != nil {
		return nil, fmt.Errorf("the login at the API server: %w", err)
	}
	return &api{base: base, client: &http.Client{
		Transport:     wrapped,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a token goes nowhere else
	}}, nil
}

func (a *api) close() {
	a.client.CloseIdleConnections()
}

// get reads a Secret. Whether its labels are right the server says, to a list.
func (a *api) get(ctx context.Context, k key) (*object, error) {
	if a.selector != "" {
		var found *object
		_, err := pages(ctx, a, k, "list whole", url.Values{}, func(o *object) { found = o })
		if err == nil && found == nil {
			err = secrets.ErrNotFound
		}
		return found, err
	}
	body, err := a.ask(ctx, k, "get", nil)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	o := new(object)
	return o, decode(json.NewDecoder(io.LimitReader(body, limit)), o)
}

// metadata is what is read of a Secret to know that it changed: of the metadata that the
// server sends no more is kept.
type metadata struct {
	Metadata struct {
		Name            string `json:"name"`
		Namespace       string `json:"namespace"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
}

func (m *metadata) key() key { return key{m.Metadata.Namespace, m.Metadata.Name} }

// names calls each for the name and version of the Secrets of a scope, and answers the
// version to watch from.
func (a *api) names(ctx context.Context, of key, each func(k key, version string)) (from string, err error) {
	return pages(ctx, a, of, "list", url.Values{}, func(m *metadata) { each(m.key(), m.Metadata.ResourceVersion) })
}

// contents calls each for the Secrets of a type in a scope.
func (a *api) contents(ctx context.Context, of key, kind string, each func(o *object)) error {
	_, err := pages(ctx, a, of, "list whole", url.Values{"fieldSelector": {"type=" + kind}}, each)
	return err
}

// pages lists part by part.
func pages[T any](ctx context.Context, a *api, of key, verb string, query url.Values, each func(x *T)) (from string, err error) {
	query.Set("limit", strconv.Itoa(page))
	for {
		next, at, err := part(ctx, a, of, verb, query, each)
		if err != nil || next == "" {
			return at, err
		}
		query.Set("continue", next)
	}
}

// part lists a part and answers where the next one begins, "" after the last.
func part[T any](ctx context.Context, a *api, of key, verb string, query url.Values, each func(x *T)) (next, at string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	body, err := a.ask(ctx, of, verb, query)
	if err != nil {
		return "", "", err
	}
	defer body.Close()
	var all struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
			Continue        string `json:"continue"`
		} `json:"metadata"`
		Items []*T `json:"items"`
	}
	if err := decode(json.NewDecoder(io.LimitReader(body, pageMax)), &all); err != nil {
		return "", "", err
	}
	for _, x := range all.Items {
		each(x)
	}
	return all.Metadata.Continue, all.Metadata.ResourceVersion, nil
}

// event is one line of a watch.
type event struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// watch follows the Secrets of a scope from a version and calls up when the server took
// it, then each for every event. It answers nil when the server ended the watch in order.
func (a *api) watch(ctx context.Context, of key, from string, lasts time.Duration, up func(), each func(kind string, k key, version string)) error {
	ctx, cancel := context.WithTimeout(ctx, lasts+patient)
	defer cancel()
	body, err := a.ask(ctx, of, "watch", url.Values{
		"watch": {"true"}, "allowWatchBookmarks": {"true"}, "resourceVersion": {from}, "timeoutSeconds": {strconv.Itoa(int(lasts.Seconds()))},
	})
	if err != nil {
		return err
	}
	defer body.Close()
	up()
	capped := &io.LimitedReader{R: body}
	for lines := json.NewDecoder(capped); ; {
		capped.N = limit
		var e event
		if err := lines.Decode(&e); errors.Is(err, io.EOF) && capped.N > 0 {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w: the watch broke off", secrets.ErrUnavailable)
		}
		if e.Type == "ERROR" {
			return failure(e.Object)
		}
		m := new(metadata)
		if json.Unmarshal(e.Object, m) != nil {
			return fmt.Errorf("%w: the watch sent what is no Secret", secrets.ErrUnavailable)
		}
		each(e.Type, m.key(), m.Metadata.ResourceVersion)
	}
}

// failure reads the status that a watch ends with. Its message is not quoted.
func failure(status json.RawMessage) error {
	var s struct {
		Code int `json:"code"`
	}
	if json.Unmarshal(status, &s) == nil && s.Code == http.StatusGone {
		return errExpired
	}
	return fmt.Errorf("%w: the watch ended with status %d", secrets.ErrUnavailable, s.Code)
}

// form is what is asked for by the verb; "list whole" is a list with what Secrets hold. A server that does not know how to leave out what
// Secrets hold sends that too, and it is not read.
func form(verb string) string {
	const all, part = "application/json", "application/json;as=PartialObjectMetadata%s;g=meta.k8s.io;v=v1,application/json"
	switch verb {
	case "list":
		return fmt.Sprintf(part, "List")
	case "watch":
		return fmt.Sprintf(part, "")
	default:
		return all
	}
}

// ask answers the body of a good answer. What a bad one says is not quoted. Verbs
// are those of the API server's access rules: get is of one name, list and watch
// are of all names, or of all with a selector for one.
func (a *api) ask(ctx context.Context, of key, verb string, query url.Values) (io.ReadCloser, error) {
	u := a.base.JoinPath("api/v1/secrets")
	if of.namespace != "" {
		u = a.base.JoinPath("api/v1/namespaces", of.namespace, "secrets")
	}
	if verb == "get" {
		u = u.JoinPath(of.name)
	} else {
		all := maps.Clone(query)
		if of.name != "" {
			all.Set("fieldSelector", "metadata.name="+of.name)
		}
		if a.selector != "" {
			all.Set("labelSelector", a.selector)
		}
		u.RawQuery = all.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	r.Header.Set("Accept", form(verb))
	answer, err := a.client.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("asking the API server: %w", ctx.Err())
		}
		return nil, fmt.Errorf("asking the API server: %w: %w", secrets.ErrUnavailable, err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Body, nil
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection can be used again
	_ = answer.Body.Close()
	verb, _, _ = strings.Cut(verb, " ")
	return nil, refusal(answer, verb)
}

func refusal(answer *http.Response, verb string) error {
	switch code := answer.StatusCode; code {
	case http.StatusNotFound:
		return secrets.ErrNotFound
	case http.StatusUnauthorized:
		return fmt.Errorf("%w with status 401: the API server does not know the account; give a token or certificate that it accepts", secrets.ErrDenied)
	case http.StatusForbidden:
		return fmt.Errorf("%w with status 403: the account may not %s it; give it the verbs get, list and watch on this Secret", secrets.ErrDenied, verb)
	case http.StatusGone:
		return errExpired
	default:
		err := fmt.Errorf("%w: the API server answered status %d", secrets.ErrUnavailable, code)
		after, bad := strconv.Atoi(answer.Header.Get("Retry-After"))
		if bad == nil && after > 0 {
			return &secrets.Throttled{Err: err, After: min(time.Duration(after), 3600) * time.Second}
		}
		if code == http.StatusTooManyRequests {
			return &secrets.Throttled{Err: err, After: time.Second}
		}
		return err
	}
}

// decode drops the decoder's error, which may quote.
func decode(d *json.Decoder, to any) error {
	if d.Decode(to) != nil {
		return fmt.Errorf("%w: the API server's answer cannot be read as JSON of the expected form", secrets.ErrUnavailable)
	}
	return nil
}
