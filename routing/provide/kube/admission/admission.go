// Package admission judges objects before an API server stores them: the validating
// webhook of a cluster.
//
// What it says is what package translate would say of the object by itself. What would
// close an object, or what it serves, is refused; what would only be left out is a
// warning, and so is whatever was as wrong before, so that nobody is kept from
// changing the rest of an object. Traffic never waits for it, and a node judges what
// comes to it in any case.
package admission

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
)

// most is how long a review may be. It has the object twice, which etcd takes up to 1.5 MiB.
const most = 8 << 20

// review is an AdmissionReview of admission.k8s.io/v1.
type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID  string `json:"uid"`
	Kind struct {
		Group string `json:"group"`
		Kind  string `json:"kind"`
	} `json:"kind"`
	Object    json.RawMessage `json:"object"`
	OldObject json.RawMessage `json:"oldObject"`
}

type response struct {
	UID      string   `json:"uid"`
	Allowed  bool     `json:"allowed"`
	Status   *status  `json:"status,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

type status struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Handler answers reviews, by the rules that a document is made with. takes says which
// objects the node would serve; others are nobody's business here.
func Handler(cfg translate.Config, takes func(translate.Object) bool, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, code, err := read(w, r)
		if err != nil {
			http.Error(w, err.Error(), code)
			return
		}
		answer := judge(cfg, takes, asked)
		if !answer.Allowed {
			log.Info("object not admitted", slog.String("kind", asked.Kind.Kind), slog.String("problem", answer.Status.Message))
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview", Response: answer})
	})
}

// read takes a review apart, or says with which status it is refused.
func read(w http.ResponseWriter, r *http.Request) (*request, int, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, http.StatusMethodNotAllowed, errors.New("expected POST")
	}
	if form, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || form != "application/json" {
		return nil, http.StatusUnsupportedMediaType, errors.New("expected application/json")
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("reading the review: %w", err)
	}
	var v review
	if json.Unmarshal(text, &v) != nil || v.APIVersion != "admission.k8s.io/v1" || v.Kind != "AdmissionReview" || v.Request == nil {
		return nil, http.StatusBadRequest, errors.New("expected an AdmissionReview of admission.k8s.io/v1 with a request")
	}
	return v.Request, 0, nil
}

// judge answers a review.
func judge(cfg translate.Config, takes func(translate.Object) bool, asked *request) *response {
	answer := &response{UID: asked.UID, Allowed: true}
	now, err := decode(asked, asked.Object)
	if err != nil {
		return answer.refuse(err.Error())
	}
	if now == nil || !takes(now) {
		return answer
	}
	var before []translate.Finding
	if old, err := decode(asked, asked.OldObject); err == nil && old != nil {
		before = translate.Judge(cfg, old)
	}
	var wrong []string
	for _, f := range translate.Judge(cfg, now) {
		text := f.Field + ": " + f.Message
		as := func(o translate.Finding) bool { return o.Field == f.Field && o.Message == f.Message }
		switch {
		case f.Effect == translate.Ignored:
			answer.Warnings = append(answer.Warnings, text+"; it is left out")
		case slices.ContainsFunc(before, as):
			answer.Warnings = append(answer.Warnings, text+"; it was so before")
		default:
			wrong = append(wrong, text)
		}
	}
	if len(wrong) > 0 {
		return answer.refuse(strings.Join(wrong, "; "))
	}
	return answer
}

func (a *response) refuse(why string) *response {
	a.Allowed, a.Status = false, &status{http.StatusUnprocessableEntity, "Invalid", why}
	return a
}

// decode reads an object, nil for none and for one of a kind that is not judged.
func decode(asked *request, text json.RawMessage) (translate.Object, error) {
	o := translate.New(asked.Kind.Kind)
	if o == nil || len(text) == 0 || string(text) == "null" {
		return nil, nil
	}
	if group, _ := translate.GroupOf(o.Kind()); group != asked.Kind.Group || group == "" && o.Kind() != translate.KindService {
		return nil, nil
	}
	if json.Unmarshal(text, o) != nil {
		return nil, fmt.Errorf("expected an object of the form of a %s", asked.Kind.Kind)
	}
	return o, nil
}
