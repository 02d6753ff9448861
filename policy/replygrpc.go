package policy

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// IsGRPC says whether a request speaks gRPC: its answers are then read by their
// grpc-status, whatever their body says.
func IsGRPC(r *exchange.Request) bool {
	ct := r.Fields.Get("Content-Type")
	return r.Version >= exchange.HTTP2 && strings.HasPrefix(ct, typeGRPC) && !strings.HasPrefix(ct, typeGRPC+"-web")
}

// GRPCFields are the fields that make of r an answer of gRPC's without a message: its
// status and what r says. A reply with a body of some other type of its own is not
// turned into one, but for the JSON object of a message.
func GRPCFields(r *Reply) ([]exchange.Field, bool) {
	message := r.Message
	switch {
	case r.Body == nil && message == "":
		message = StatusText(r.Status)
	case len(r.Body) > 0:
		var said struct{ Message string }
		if r.ContentType != TypeJSON || json.Unmarshal(r.Body, &said) != nil || said.Message == "" {
			return nil, false
		}
		message = said.Message
	}
	return []exchange.Field{
		{Name: "Content-Type", Value: typeGRPC},
		{Name: "grpc-status", Value: strconv.Itoa(cmp.Or(r.GRPC, GRPCStatus(r.Status)))},
		{Name: "grpc-message", Value: GRPCMessage(message)},
	}, true
}

// GRPCStatus is the status of gRPC that users of this format know an HTTP status by.
func GRPCStatus(status int) int {
	switch status {
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404:
		return 5 // NOT_FOUND
	case 409:
		return 6 // ALREADY_EXISTS
	case 429:
		return 8 // RESOURCE_EXHAUSTED
	case 499:
		return 1 // CANCELLED
	case 501:
		return 12 // UNIMPLEMENTED
	case 503:
		return 14 // UNAVAILABLE
	case 504:
		return 4 // DEADLINE_EXCEEDED
	}
	switch status / 100 {
	case 2:
		return 0 // OK
	case 4:
		return 3 // INVALID_ARGUMENT
	case 5:
		return 13 // INTERNAL
	}
	return 2 // UNKNOWN
}

// GRPCMessage writes a message as the field's form wants it: visible ASCII, the rest encoded.
func GRPCMessage(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b.WriteByte('%')
			b.WriteByte("0123456789ABCDEF"[c>>4])
			b.WriteByte("0123456789ABCDEF"[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
