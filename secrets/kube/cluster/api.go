package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// most is how many bytes one answer may have.
const most = 1 << 30

// API asks the API server. Sources of one API share what they know of whether the server
// is there.
type API struct {
	Base   *url.URL
	Client *http.Client

	gate gate

	mu      sync.Mutex           // guards what follows
	lacking map[string]time.Time // kinds that the server said not to have, and when it did so last
}

// fresh is how long what one source heard of a kind that is not there is believed by those
// of other namespaces: with hundreds of these each would ask for every such kind.
const fresh = lookAgain / 2

// lacks says whether the server said just now that it does not have a kind.
func (a *API) lacks(kind string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	said, ok := a.lacking[kind]
	return ok && time.Since(said) < fresh
}

// lack notes what the server says of a kind.
func (a *API) lack(kind string, lacks bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !lacks {
		delete(a.lacking, kind)
		return
	}
	if a.lacking == nil {
		a.lacking = map[string]time.Time{}
	}
	a.lacking[kind] = time.Now()
}

// open answers the body of a good answer. A bad one is an error of the API machinery,
// which reflectors know.
func (a *API) open(ctx context.Context, method, path string, query url.Values, form string, body []byte) (io.ReadCloser, error) {
	u := a.Base.JoinPath(path)
	u.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	r.Header.Set("Accept", "application/json")
	if body != nil {
		r.Header.Set("Content-Type", form)
	}
	answer, err := a.Client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("asking the API server: %w", err)
	}
	if answer.StatusCode < http.StatusMultipleChoices {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	var status metav1.Status
	after, _ := strconv.Atoi(answer.Header.Get("Retry-After")) // 0 for a server that does not say
	if json.Unmarshal(text, &status) != nil || status.Kind != "Status" || status.Code == 0 {
		return nil, apierrors.NewGenericServerResponse(answer.StatusCode, method, schema.GroupResource{Resource: path}, "", "", after, true)
	}
	if status.Details == nil {
		status.Details = &metav1.StatusDetails{}
	}
	status.Details.RetryAfterSeconds = max(status.Details.RetryAfterSeconds, int32(min(max(after, 0), 3600))) //nolint:gosec // it fits
	return nil, &apierrors.StatusError{ErrStatus: status}
}

// Do sends an object, nil for none, and reads the answer into to, nil for nobody.
func (a *API) Do(ctx context.Context, method, path string, body, to any) error {
	form, data := "application/json", []byte(nil)
	if method == http.MethodPatch {
		form = "application/merge-patch+json"
	}
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encoding a request: %w", err)
		}
	}
	answer, err := a.open(ctx, method, path, nil, form, data)
	if err != nil {
		return err
	}
	defer answer.Close()
	if to == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(answer, most))
	} else {
		err = json.NewDecoder(io.LimitReader(answer, most)).Decode(to)
	}
	if err != nil {
		return fmt.Errorf("reading the API server's answer: %w", err)
	}
	return nil
}

// Absent says that an error means that there is no such thing.
func Absent(err error) bool {
	return err != nil && apierrors.IsNotFound(err)
}

// Denied says that an error means that the account may not do that.
func Denied(err error) bool {
	return err != nil && (apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err))
}

// Conflict says that an error means that the object was changed meanwhile.
func Conflict(err error) bool {
	return err != nil && apierrors.IsConflict(err)
}

// ErrShape is what a Keeper answers to what is no object of its kind.
var ErrShape = errors.New("the API server sent what is no object of the kind that was asked for")
